"""Addresses of what is imported: a path of this machine, `hf://owner/name[@revision][/path]`, or one of fsspec's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lensmount.errors import InvalidInputError

FIX = "give a path, hf://owner/name[@revision][/folder], or s3://bucket/folder"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
_HUB = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@]+))?(/(?P<path>.+?))?/?")


@dataclass(frozen=True)
class HubAddress:
    """A repository of models on the Hugging Face Hub: `name` is owner/name, `path` a folder or file within it."""

    name: str
    revision: str
    path: str


def is_local(address: str) -> bool:
    """Whether it is a path of this machine."""
    return _SCHEME.match(address) is None or address.startswith("file://")


def local_path(address: str) -> Path:
    """The path that a local address names; `~` is the home folder."""
    return Path(address.removeprefix("file://")).expanduser()


def scheme(address: str) -> str:
    """What stands before `://`, in lower case."""
    return address.partition("://")[0].lower()


def without_secrets(address: str) -> str:
    """The address without a login and without what stands behind `?`, as it may be shown and kept."""
    if is_local(address) or scheme(address) == "hf":
        return address
    return re.sub(r"://[^/]*@", "://", address.partition("?")[0])


def parse_hub(address: str) -> HubAddress:
    """Parse an `hf://` address; raises InvalidInputError. A revision with a slash is written with %2F."""
    found = _HUB.fullmatch(address)
    if found is None or ".." in (found["path"] or "").split("/"):
        message, fix = "no address of the Hub", "hf://owner/name, hf://owner/name@revision, hf://owner/name/folder"
        raise InvalidInputError(message, field="source", value=address, fix=fix)
    revision = (found["revision"] or "main").replace("%2F", "/")
    return HubAddress(found["name"], revision, (found["path"] or "").strip("/"))
