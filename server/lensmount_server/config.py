"""What `lensmount serve` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones.default import AUTO
from lensmount_server.backends import Backend, check_backend
from lensmount_server.endpoints import parse_address
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.hotset import HotLimits
from lensmount_server.policy import Policy
from lensmount_server.registry import Places
from lensmount_server.video.policy import AddressPolicy
from lensmount_server.workers.pool import PoolOptions

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_METRICS = "127.0.0.1:9464"


def default_data_dir() -> Path:
    """The data directory of a user who names none."""
    return platformdirs.user_data_path("lensmount")


@dataclass(frozen=True)
class ServeConfig:
    """What `lensmount serve` runs; port 0 takes a free one; `hot` limits what adapters take in memory.

    `backbone` is timm's name, or "auto" for what the data directory was served with before.

    `addresses` is where sources may come from: files, by default, from the current folder. `metrics_address` is
    where Prometheus reads; "": nowhere. `decode_workers` processes share the sources that are more than they.
    `places` is where the registry lies, `policy` what metrics an adapter must reach, `keep_versions` how many of the
    newest versions of each task stay (0: all). `backend` is where batches are computed: "torch", in this process, or
    "triton", by the Tritons whose gRPC is at `triton_urls`.
    """

    data_dir: Path
    address: str = DEFAULT_ADDRESS
    backbone: str = AUTO
    weights: Path | None = None
    engine: EngineSettings = field(default_factory=EngineSettings)
    hot: HotLimits = field(default_factory=HotLimits)
    addresses: AddressPolicy = field(default_factory=AddressPolicy)
    metrics_address: str = ""
    decode_workers: int = PoolOptions.most
    places: Places = field(default_factory=Places)
    policy: Policy = field(default_factory=Policy)
    keep_versions: int = 0
    backend: Backend = "torch"
    triton_urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises InvalidInputError for a registry that servers may share whose packages they do not.

        And for addresses of Tritons without that backend, or the other way round.
        """
        if self.places.database and not self.places.blobs:
            fix = "give --packages too: a folder or an address that all servers on this registry use"
            raise InvalidInputError("the registry is shared, its packages are not", field="packages", fix=fix)
        check_backend(self.backend, self.triton_urls, self.engine)

    @property
    def host_port(self) -> tuple[str, int]:
        """The address in two parts; raises InvalidInputError."""
        return parse_address(self.address, "address", DEFAULT_ADDRESS)

    @property
    def metrics_host_port(self) -> tuple[str, int] | None:
        """The address of the metrics in two parts, None for nowhere; raises InvalidInputError."""
        return parse_address(self.metrics_address, "metrics_address", DEFAULT_METRICS) if self.metrics_address else None
