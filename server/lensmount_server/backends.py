"""Where batches are computed: in this process, or by Triton Inference Servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_server.endpoints import parse_address
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.runtime import Engine
from lensmount_server.engine.settings import EngineSettings

Backend = Literal["torch", "triton"]
TRITON: Backend = "triton"
TRITON_EXAMPLE = "localhost:8001"
EXAMPLE = f"--backend triton --triton-url {TRITON_EXAMPLE}"


def check_backend(backend: str, urls: Sequence[str], settings: EngineSettings) -> None:
    """Raise InvalidInputError for what does not go together."""
    if backend == TRITON and not urls:
        raise InvalidInputError("no Triton is named", field="triton_url", fix=f"give {EXAMPLE}")
    if backend != TRITON and urls:
        message, fix = "Tritons are named, and not asked", f"give {EXAMPLE}"
        raise InvalidInputError(message, field="backend", value=backend, fix=fix)
    for url in urls:
        parse_address(url, "triton_url", TRITON_EXAMPLE)
        if urls.count(url) > 1:
            raise InvalidInputError("twice the same Triton", field="triton_url", value=url, fix="give each once")
    if backend == TRITON and settings != EngineSettings():
        fix = "give them to lensmount export triton, and leave them away here"
        message = "device, engine, precision, threads and merged tails are the Tritons' matter"
        raise InvalidInputError(message, field="backend", value=backend, fix=fix)


def open_backend(
    backbone: Backbone, settings: EngineSettings, urls: Sequence[str], package: Callable[[str], Path]
) -> Engine:
    """The engine of a server; `urls` are those of Tritons, `package` gives the folder of a content hash. Blocks.

    Raises LensmountError for an engine that can not run here, and for Tritons of which none can be asked.
    """
    if not urls:
        return open_engine(backbone, settings)
    from lensmount_server.triton.opening import open_triton  # noqa: PLC0415 - loaded by those alone who have a Triton

    return open_triton(backbone, urls, package)
