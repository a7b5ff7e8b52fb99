"""Every setting of a server: its name, type, limits, default and help.

One word for one thing: `hot_adapters` in the file is `--hot-adapters` on the command line and `LENSMOUNT_HOT_ADAPTERS`
in the environment; all three follow from the name here. A new setting is a field of `Settings` and its place in
`Settings.serve_config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lensmount_adapters.backbones.default import AUTO
from lensmount_server.backends import TRITON_EXAMPLE, Backend
from lensmount_server.config import DEFAULT_ADDRESS, DEFAULT_METRICS, ServeConfig, default_data_dir
from lensmount_server.endpoints import parse_address
from lensmount_server.engine.settings import DEFAULT_MERGED_MIB, Device, EngineName, EngineSettings, Precision
from lensmount_server.hotset import HotLimits
from lensmount_server.policy import parse_policy
from lensmount_server.registry import Places, parse_url
from lensmount_server.settings.kinds import OnDisk, Written, checked
from lensmount_server.video.policy import AddressPolicy, known_schemes, parse_network
from lensmount_server.workers.pool import PoolOptions

PREFIX = "LENSMOUNT_"

_Folder = Annotated[Path, OnDisk(click.Path(path_type=Path, file_okay=False))]
_File = Annotated[Path, OnDisk(click.Path(path_type=Path, dir_okay=False))]
_OpenFolder = Annotated[Path, OnDisk(click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True))]
_Scheme = Annotated[str, AfterValidator(str.lower), checked(lambda text: AddressPolicy(schemes=(text,)))]
_Network = Annotated[str, checked(parse_network)]
_Address = Annotated[str, checked(lambda text: parse_address(text, "address", DEFAULT_ADDRESS))]
_Metrics = Annotated[str, checked(lambda text: text and parse_address(text, "metrics_address", DEFAULT_METRICS))]
_Triton = Annotated[str, checked(lambda text: parse_address(text, "triton_url", TRITON_EXAMPLE))]


class Settings(BaseSettings):
    """What a server is told; empty texts and lists mean what the help says behind "Without it"."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    address: _Address = Field(
        DEFAULT_ADDRESS, description="Where to listen; port 0: a free one.", examples=["0.0.0.0:50051", "[::1]:50051"]
    )
    backbone: str = Field(
        AUTO, description="timm's name of the shared model; auto: as before.", examples=["efficientnet_b4", "resnet50"]
    )
    weights: _File | None = Field(
        None,
        description="Its weights (safetensors).",
        examples=["/srv/lensmount/backbone.safetensors", "backbone.safetensors"],
    )
    data_dir: Annotated[_Folder, Written(default="your data folder")] = Field(
        default_factory=default_data_dir,
        description="Registry and packages.",
        examples=["/var/lib/lensmount", "lensmount-data"],
    )
    device: Device = Field("cpu", description="Where to compute; cuda: the first GPU.")
    engine: EngineName = Field("auto", description="What computes; auto: what is fastest here.")
    precision: Precision = Field("auto", description="What it computes in; auto: the fastest that is fine enough.")
    backend: Backend = Field(
        "torch", description="Where to compute; torch: in this process, triton: by Triton Inference Servers."
    )
    triton_url: Annotated[tuple[_Triton, ...], Written("HOST:PORT")] = Field(
        (),
        description="The gRPC of a Triton that hosts what `lensmount export triton` wrote; may be repeated.",
        examples=["localhost:8001", "triton:8001"],
    )
    threads: int = Field(0, strict=True, ge=0, le=1024, description="Computing threads; 0: one a core.")
    merged_mib: int = Field(
        DEFAULT_MERGED_MIB, strict=True, ge=0, le=1 << 20, description="Memory for merged tails of hot adapters."
    )
    hot_adapters: int = Field(
        HotLimits.count,
        strict=True,
        ge=1,
        description="Adapters kept in memory; others are loaded when they are asked for.",
    )
    registry: Annotated[str, Written("URL"), checked(lambda text: text and parse_url(text))] = Field(
        "",
        description="The registry's database, postgresql://… for example, which several servers may share. "
        "Without it: a file in the data directory.",
        examples=["postgresql://lensmount@db.example/lensmount", "postgresql:///lensmount"],
    )
    packages: Annotated[str, Written("FOLDER|URL")] = Field(
        "",
        description="Where packages are kept: a folder, or s3://… and the like. Without it: in the data directory. "
        "Servers that share a registry share this too.",
        examples=["s3://bucket/lensmount", "/srv/lensmount/packages"],
    )
    minimum_metric: Annotated[tuple[str, ...], Written("[TASK:]NAME=NUMBER"), checked(parse_policy)] = Field(
        (),
        description="Refuse adapters whose own test metrics are below this: macro_f1=0.9, or "
        "defect:recall.crack=0.98; may be repeated.",
        examples=["macro_f1=0.9", "defect:recall.crack=0.98"],
    )
    keep_versions: int = Field(
        0,
        strict=True,
        ge=0,
        description="After each registration delete versions of the task beyond so many of the newest, if nothing "
        "needs them. 0: keep all.",
    )
    source_scheme: Annotated[tuple[_Scheme, ...], Written("SCHEME")] = Field(
        (),
        description=f"A kind of address that sources may have; give it once for each of {', '.join(known_schemes())}. "
        "Without it: all of these.",
        examples=["rtsp", "file"],
    )
    source_folder: tuple[_OpenFolder, ...] = Field(
        (),
        description="A folder whose videos and pictures may be sources, with all below it; may be repeated. "
        "Without it: the current folder.",
        examples=["/srv/videos", "/srv/pictures"],
    )
    source_network: Annotated[tuple[_Network, ...], Written("CIDR")] = Field(
        (),
        description="A network where the hosts of sources must be, for example 192.168.7.0/24; may be repeated. "
        "Without it: anywhere but link-local addresses. Metadata services of clouds are refused always.",
        examples=["192.168.7.0/24", "fd00::/8"],
    )
    decode_workers: int = Field(
        PoolOptions.most,
        strict=True,
        ge=1,
        le=256,
        description="Processes that decode: each source has its own, up to so many; then they share.",
    )
    metrics_address: Annotated[_Metrics, Written("HOST:PORT")] = Field(
        "",
        description=f"Where Prometheus may read /metrics, {DEFAULT_METRICS} for example. Without it: nowhere.",
        examples=[DEFAULT_METRICS, "0.0.0.0:9464"],
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but what it is given: `layers` reads each source by itself, so that an error can name it."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    def serve_config(self) -> ServeConfig:
        """What the server's parts take; raises InvalidInputError for settings that do not go together."""
        default = AddressPolicy()
        return ServeConfig(
            self.data_dir,
            self.address,
            self.backbone,
            self.weights,
            EngineSettings(self.engine, self.precision, self.threads, self.merged_mib, self.device),
            HotLimits(self.hot_adapters),
            AddressPolicy(
                self.source_scheme or default.schemes,
                self.source_folder or default.folders,
                tuple(map(parse_network, self.source_network)),
            ),
            self.metrics_address,
            self.decode_workers,
            Places(self.registry, self.packages),
            parse_policy(self.minimum_metric),
            self.keep_versions,
            self.backend,
            self.triton_url,
        )
