"""What `lensmount serve` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from lensmount.errors import InvalidInputError
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.hotset import HotLimits
from lensmount_server.video.policy import AddressPolicy

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_BACKBONE = "tf_efficientnet_lite0"


def default_data_dir() -> Path:
    """The data directory of a user who names none."""
    return platformdirs.user_data_path("lensmount")


@dataclass(frozen=True)
class ServeConfig:
    """What `lensmount serve` runs; port 0 takes a free one; `hot` limits what adapters take in memory.

    `addresses` is where sources may come from: files, by default, from the current folder.
    """

    data_dir: Path
    address: str = DEFAULT_ADDRESS
    backbone: str = DEFAULT_BACKBONE
    weights: Path | None = None
    engine: EngineSettings = field(default_factory=EngineSettings)
    hot: HotLimits = field(default_factory=HotLimits)
    addresses: AddressPolicy = field(default_factory=AddressPolicy)

    @property
    def host_port(self) -> tuple[str, int]:
        """The address in two parts; raises InvalidInputError."""
        host, _, port = self.address.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            fix = "give HOST:PORT, for example 127.0.0.1:50051"
            raise InvalidInputError("not an address", field="address", value=self.address, fix=fix)
        return host, int(port)
