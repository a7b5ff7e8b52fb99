"""The Hugging Face Hub: a folder of a repository, by its own client, cache and offline mode."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined] # HTTPError is of the HTTP library that it uses
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lensmount.errors import InvalidInputError, LensmountError, NotFoundError, UnavailableError
from lensmount_adapters.importing.addresses import HubAddress

Choose = Callable[[Mapping[str, int]], Sequence[str]]

FIX_OFFLINE = "go online once (and unset HF_HUB_OFFLINE), or give a folder of this machine"


def download(address: HubAddress, folder: Path, choose: Choose) -> Path:
    """Copy what `choose` picks of the files' names and sizes into `folder`; the folder, or the one file that was named.

    Without network what the Hub's cache holds is taken. Raises NotFoundError for a repository, revision or folder
    that is not there, UnavailableError for one that is gated, or without network; what `choose` raises.
    """
    try:
        snapshot = _online(address, choose)
    except (OfflineModeIsEnabled, _Offline) as error:
        snapshot = _cached(address, error)
    except (HFValidationError, HTTPError, OSError) as error:
        raise _failure(address, error) from error
    source = snapshot / address.path
    if source.is_file():
        choose({source.name: source.stat().st_size})
        return Path(shutil.copyfile(source, folder / source.name))
    present = {path.name: path for path in source.iterdir() if path.is_file()} if source.is_dir() else {}
    for name in choose({name: path.stat().st_size for name, path in present.items()}):
        shutil.copyfile(present[name], folder / name)
    return folder


class _Offline(Exception):  # noqa: N818 - never leaves this module
    """The Hub does not answer."""


def _online(address: HubAddress, choose: Choose) -> Path:
    try:
        found = HfApi().model_info(address.name, revision=address.revision, files_metadata=True)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled):
        raise
    except (HTTPError, OSError) as error:
        raise _Offline(str(error)) from error
    sizes = {file.rfilename: file.size or 0 for file in found.siblings or ()}
    chosen = _within(address.path, sizes, choose)
    return Path(snapshot_download(address.name, revision=found.sha, allow_patterns=chosen))


def _within(path: str, sizes: Mapping[str, int], choose: Choose) -> list[str]:
    """The files to fetch of a folder of the repository, or the one file at `path`."""
    if path in sizes:
        name = path.rpartition("/")[2]
        choose({name: sizes[path]})
        return [path]
    prefix = f"{path}/" if path else ""
    own = {name.removeprefix(prefix): size for name, size in sizes.items() if name.startswith(prefix)}
    return [f"{prefix}{name}" for name in choose({name: size for name, size in own.items() if "/" not in name})]


def _cached(address: HubAddress, cause: Exception) -> Path:
    try:
        return Path(snapshot_download(address.name, revision=address.revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        # The snapshot of an earlier, partial download: what is in it may be all that is needed.
        partial: Any = getattr(error, "snapshot_path", None)
        if partial is not None:
            return Path(partial)
        message = f"the Hub can not be reached, and its cache here has no {address.name} at {address.revision}"
        raise UnavailableError(message, field="source", value=_first_line(cause), fix=FIX_OFFLINE) from error


def _failure(address: HubAddress, error: Exception) -> LensmountError:
    """What the Hub's client raised, as an error of ours."""
    name = address.name
    if isinstance(error, GatedRepoError):
        fix = f"ask for access at https://huggingface.co/{name}, then `hf auth login`"
        return UnavailableError("the repository is gated", field="source", value=name, fix=fix)
    if isinstance(error, RepositoryNotFoundError):
        fix = "check owner and name; for a private one, `hf auth login` first"
        return NotFoundError("the Hub has no such repository", field="source", value=name, fix=fix)
    if isinstance(error, RevisionNotFoundError):
        fix = f"look at https://huggingface.co/{name}/commits"
        return NotFoundError("the repository has no such revision", field="source", value=address.revision, fix=fix)
    if isinstance(error, HFValidationError):
        return InvalidInputError(f"no name of a repository: {error}", field="source", value=name, fix="hf://owner/name")
    message = "the Hub could not give it"
    return UnavailableError(message, field="source", value=_first_line(error), fix="try again later")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
