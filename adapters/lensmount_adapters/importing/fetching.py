"""Fetching a folder or a file by its address: from this machine, the Hugging Face Hub, or an object store.

What comes from elsewhere lies in a scratch folder of plain files for as long as it is used. Sizes and counts are
known, and within limits, before the first byte is fetched.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from lensmount.errors import InvalidInputError, NotFoundError, TooLargeError
from lensmount_adapters.importing.addresses import FIX, is_local, local_path, parse_hub, scheme
from lensmount_adapters.importing.hub import download
from lensmount_adapters.importing.store import Store
from lensmount_adapters.package import MAX_BYTES, TENSOR_FILE

# The files that an adapter or a checkpoint is made of; a repository holds much else.
WANTED = (
    *MAX_BYTES, "adapter_model.bin", "config.json", "preprocessor_config.json",
    "model.safetensors", "pytorch_model.bin", "*.pth", "*.pt",
)  # fmt: skip
UNWANTED = ("optimizer.pt", "scheduler.pt", "rng_state*.pth", "training_args.bin")
MAX_FILES = 32
MAX_FILE_BYTES = MAX_BYTES[TENSOR_FILE]


@contextmanager
def fetched(address: str) -> Iterator[Path]:
    """The folder or file at `address`, on this machine until the context ends.

    Of a remote folder only files that can be a part of an adapter or a checkpoint come along, and no folders in it.
    Raises NotFoundError when there is nothing, InvalidInputError for an address that no driver knows,
    MissingExtraError for one whose driver is not installed, UnavailableError without network or permission,
    TooLargeError beyond a limit.
    """
    if is_local(address):
        yield existing(local_path(address))
        return
    if "::" in address:
        raise InvalidInputError("chained addresses are not followed", field="source", value=address, fix=FIX)
    with tempfile.TemporaryDirectory(prefix="lensmount-") as scratch:
        folder = Path(scratch) / "fetched"
        folder.mkdir()
        if scheme(address) == "hf":
            yield download(parse_hub(address), folder, choose)
        else:
            yield Store(address).download(folder, choose)


def existing(path: Path) -> Path:
    """The path; raises NotFoundError when nothing is there."""
    if not path.exists():
        raise NotFoundError("there is no such file or folder", field="source", value=path, fix=FIX)
    return path


def choose(sizes: Mapping[str, int]) -> list[str]:
    """Of the files of a folder, by size in bytes, those to fetch; raises NotFoundError, TooLargeError.

    Where weights are there as safetensors, no pickle is fetched.
    """
    chosen = [name for name in sorted(sizes) if _matches(name, WANTED) and not _matches(name, UNWANTED)]
    if any(name.endswith("model.safetensors") for name in chosen):
        chosen = [name for name in chosen if not name.endswith((".bin", ".pth", ".pt"))]
    if not chosen:
        found = ", ".join(sorted(sizes)[:4]) or "nothing"
        message, fix = "no adapter and no checkpoint there", "give the folder that holds the safetensors file"
        raise NotFoundError(message, field="source", value=found, fix=fix)
    if len(chosen) > MAX_FILES:
        fix = "give the one file, not its folder"
        raise TooLargeError(f"at most {MAX_FILES} files", field="source", value=len(chosen), fix=fix)
    for name in chosen:
        limit = MAX_BYTES.get(name, MAX_FILE_BYTES)
        if sizes[name] > limit:
            fix = "import an adapter or a smaller model"
            raise TooLargeError(f"at most {limit:,} bytes", field=name, value=f"{sizes[name]:,} bytes", fix=fix)
    return chosen


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
