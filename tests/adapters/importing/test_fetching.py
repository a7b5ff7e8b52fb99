"""Addresses: what is there is fetched within limits, what is not is told in one sentence with its fix."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import huggingface_hub
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lensmount.errors import (
    InvalidInputError,
    LensmountError,
    MissingExtraError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from lensmount_adapters.importing import fetching, hub
from lensmount_adapters.importing.addresses import HubAddress, parse_hub, without_secrets
from lensmount_adapters.importing.fetching import MAX_FILES, choose, fetched

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"tensors", "optimizer.pt": b"x", "notes.txt": b"y"}
KEPT = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture
def memory() -> Iterator[Callable[..., None]]:
    """Puts files into fsspec's memory store; it is empty again afterwards."""
    store = fsspec.filesystem("memory")

    def put(**folders: dict[str, bytes]) -> None:
        for folder, files in folders.items():
            for name, data in files.items():
                store.pipe_file(f"/{folder}/{name}", data)

    yield put
    store.rm("/", recursive=True)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Lays out the Hub's cache as its client does, and goes offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def lay(name: str = "owner/name", revision: str = "main", **files: bytes) -> Path:
        root = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / revision).write_text(COMMIT)
        for number, (path, data) in enumerate(files.items()):
            blob = root / "blobs" / str(number)
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(data)
            link = root / "snapshots" / COMMIT / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        return root

    return lay


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_local_path_is_itself(tmp_path: Path) -> None:
    for address in (str(tmp_path), f"file://{tmp_path}"):
        with fetched(address) as path:
            assert path == tmp_path


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    with fetched("~/run") as path:
        assert path == tmp_path / "run"


def test_a_folder_of_a_store(memory: Callable[..., None]) -> None:
    memory(bucket=FILES | {"deep/model.safetensors": b"z"})
    with fetched("memory://bucket") as path:
        assert names(path) == KEPT
        assert (path / "adapter_model.safetensors").read_bytes() == b"tensors"
    assert not path.exists()


def test_a_file_of_a_store(memory: Callable[..., None]) -> None:
    memory(bucket={"tuned.pth": b"weights"})
    with fetched("memory://bucket/tuned.pth") as path:
        assert (path.name, path.read_bytes()) == ("tuned.pth", b"weights")


def test_no_pickle_is_fetched_beside_safetensors(memory: Callable[..., None]) -> None:
    memory(bucket={"model.safetensors": b"a", "pytorch_model.bin": b"b", "config.json": b"{}"})
    with fetched("memory://bucket") as path:
        assert names(path) == {"model.safetensors", "config.json"}


def test_a_folder_of_the_hubs_cache_is_copied_without_links(cache: Callable[..., Path]) -> None:
    cache(**{f"runs/1/{name}": data for name, data in FILES.items()}, **{"README.md": b"top"})
    with fetched("hf://owner/name/runs/1") as path:
        assert names(path) == KEPT
        assert not any(file.is_symlink() for file in path.iterdir())


def test_a_revision_and_a_file_of_the_hubs_cache(cache: Callable[..., Path]) -> None:
    cache(revision="v2", **{"model.safetensors": b"two"})
    with fetched("hf://owner/name@v2") as path:
        assert (path / "model.safetensors").read_bytes() == b"two"
    with fetched("hf://owner/name@v2/model.safetensors") as path:
        assert path.is_file()
    with fetched(f"hf://owner/name@{COMMIT}") as path:
        assert names(path) == {"model.safetensors"}


@pytest.mark.parametrize("address", ["hf://owner/other", "hf://owner/name@v9"])
def test_offline_and_not_in_the_cache(address: str, cache: Callable[..., Path]) -> None:
    cache(**{"model.safetensors": b"two"})
    with (
        pytest.raises(UnavailableError, match="can not be reached, and its cache here has no") as caught,
        fetched(address),
    ):
        pass
    assert "HF_HUB_OFFLINE" in caught.value.fix
    assert "offline" in caught.value.value.lower()


def test_a_folder_that_the_cached_repository_lacks(cache: Callable[..., Path]) -> None:
    cache(**{"model.safetensors": b"two"})
    with pytest.raises(NotFoundError, match="no adapter and no checkpoint"), fetched("hf://owner/name/other"):
        pass


def test_a_repository_is_measured_before_it_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    large = SimpleNamespace(rfilename="model.safetensors", size=3 << 30)
    answer_of_the_hub(monkeypatch, SimpleNamespace(siblings=[large], sha=COMMIT))
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(TooLargeError) as caught, fetched("hf://owner/name"):
        pass
    assert caught.value.field == "model.safetensors"


def test_only_the_chosen_files_of_a_repository_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = [SimpleNamespace(rfilename=f"runs/{name}", size=1) for name in FILES]
    found.append(SimpleNamespace(rfilename="model.safetensors", size=3 << 30))
    answer_of_the_hub(monkeypatch, SimpleNamespace(siblings=found, sha=COMMIT))
    asked: list[Any] = []

    def download(name: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        (tmp_path / "runs").mkdir()
        for file in allow_patterns:
            (tmp_path / file).write_bytes(b"x")
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    with fetched("hf://owner/name@v1/runs") as path:
        assert names(path) == KEPT
    assert asked == [("owner/name", COMMIT, [f"runs/{name}" for name in sorted(KEPT)])]


def answer_of_the_hub(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    def info(*_: object, **__: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)


def refusal(kind: str) -> Exception:
    made: Any = getattr(huggingface_hub.errors, kind)
    if not issubclass(made, huggingface_hub.errors.HfHubHTTPError):
        error: Exception = made("no")
        return error
    answered: Exception = made("no", response=SimpleNamespace(headers={}, request=None, status_code=404))
    return answered


@pytest.mark.parametrize(
    ("kind", "error", "message", "fix"),
    [
        ("GatedRepoError", UnavailableError, "gated", "ask for access"),
        ("RepositoryNotFoundError", NotFoundError, "no such repository", "owner and name"),
        ("RevisionNotFoundError", NotFoundError, "no such revision", "commits"),
        ("HFValidationError", InvalidInputError, "no name of a repository", "hf://owner/name"),
        ("HfHubHTTPError", UnavailableError, "could not give it", "later"),
    ],
)
def test_what_the_hub_refuses(
    kind: str, error: type[LensmountError], message: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_of_the_hub(monkeypatch, refusal(kind))
    with pytest.raises(error, match=message) as caught, fetched("hf://owner/name@v1"):
        pass
    assert caught.value.field == "source"
    assert caught.value.value
    assert fix in caught.value.fix


def test_no_network_is_told_as_such(cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    cache(**{"model.safetensors": b"two"})
    answer_of_the_hub(monkeypatch, ConnectionError("Name or service not known"))
    with fetched("hf://owner/name") as path:
        assert names(path) == {"model.safetensors"}
    with pytest.raises(UnavailableError) as caught, fetched("hf://owner/other"):
        pass
    assert caught.value.value == "Name or service not known"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://a/b", HubAddress("a/b", "main", "")),
        ("hf://a/b/", HubAddress("a/b", "main", "")),
        ("hf://a/b@v1.0/x/y", HubAddress("a/b", "v1.0", "x/y")),
        ("hf://a/b@refs%2Fpr%2F1", HubAddress("a/b", "refs/pr/1", "")),
        ("hf://a-1/b.c_d/x.pth", HubAddress("a-1/b.c_d", "main", "x.pth")),
    ],
)
def test_addresses_of_the_hub(address: str, expected: HubAddress) -> None:
    assert parse_hub(address) == expected


@pytest.mark.parametrize("address", ["hf://", "hf://a", "hf:///a/b", "hf://a/b@", "hf://a/b/../c", "hf://a b/c"])
def test_what_is_no_address_of_the_hub(address: str) -> None:
    with pytest.raises(InvalidInputError, match="no address of the Hub") as caught, fetched(address):
        pass
    assert (caught.value.field, caught.value.value) == ("source", address)
    assert "hf://owner/name" in caught.value.fix


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("/nowhere/at/all", NotFoundError, "no such file or folder"),
        ("memory://nowhere", NotFoundError, "no such bucket, folder or file"),
        ("gopher://host/folder", InvalidInputError, "no driver knows"),
        ("simplecache::memory://bucket", InvalidInputError, "chained"),
    ],
)
def test_addresses_that_can_not_work(address: str, error: type[LensmountError], message: str) -> None:
    with pytest.raises(error, match=message) as caught, fetched(address):
        pass
    assert caught.value.field == "source"
    assert caught.value.value == address
    assert caught.value.fix


def test_a_missing_driver_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match="s3") as caught, fetched("s3://bucket/folder"):
        pass
    assert caught.value.fix == "pip install 'lensmount[s3]'"
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingExtraError, match="driver") as caught, fetched("gs://bucket/folder"):
        pass
    assert "gcsfs" in caught.value.fix


class NoCredentialsError(Exception):
    pass


@pytest.mark.parametrize(
    ("raised", "message", "fix"),
    [
        (PermissionError("Access Denied"), "no permission", "AWS_"),
        (NoCredentialsError("Unable to locate credentials"), "no permission", "AWS_"),
        (ConnectionError("no route"), "can not be read: ConnectionError: no route", "network"),
        (TimeoutError(), "can not be read", "network"),
    ],
)
@pytest.mark.parametrize("method", ["isfile", "ls", "get_file"])
def test_what_a_store_refuses(
    method: str,
    raised: Exception,
    message: str,
    fix: str,
    memory: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory(bucket=FILES)

    def refuse(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(MemoryFileSystem, method, refuse)
    with pytest.raises(UnavailableError, match=message) as caught, fetched("memory://bucket"):
        pass
    assert caught.value.value == "memory://bucket"
    assert fix in caught.value.fix


def test_a_driver_that_connects_at_once_and_can_not() -> None:
    with pytest.raises(UnavailableError, match="can not be read") as caught, fetched("ftp://127.0.0.1:1/folder"):
        pass
    assert caught.value.value == "ftp://127.0.0.1:1/folder"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("ftp://me:secret@host/a", "ftp://host/a"),
        ("https://host/a.pth?X-Amz-Signature=secret", "https://host/a.pth"),
        ("hf://a/b@v1", "hf://a/b@v1"),
        ("/home/me@work/a?b", "/home/me@work/a?b"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_secrets_of_an_address_are_not_shown(address: str, shown: str) -> None:
    assert without_secrets(address) == shown


def test_a_refusal_shows_no_secret() -> None:
    with pytest.raises(UnavailableError) as caught, fetched("ftp://me:secret@127.0.0.1:1/folder"):
        pass
    assert "secret" not in str(caught.value)


def test_a_store_is_measured_before_it_is_read(memory: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    memory(bucket={"tuned.pth": b"12345678"})
    monkeypatch.setattr(fetching, "MAX_FILE_BYTES", 7)
    monkeypatch.setattr(MemoryFileSystem, "get_file", lambda *_: pytest.fail("read"))
    for address in ("memory://bucket", "memory://bucket/tuned.pth"):
        with pytest.raises(TooLargeError, match="at most 7 bytes") as caught, fetched(address):
            pass
        assert caught.value.field == "tuned.pth"


def test_limits_of_a_folder() -> None:
    with pytest.raises(TooLargeError, match="1,048,576") as caught:
        choose({"adapter_config.json": (1 << 20) + 1, "adapter_model.safetensors": 1})
    assert caught.value.field == "adapter_config.json"
    with pytest.raises(TooLargeError, match=f"at most {MAX_FILES} files"):
        choose({f"{i}.pth": 1 for i in range(MAX_FILES + 1)})
    with pytest.raises(NotFoundError, match="no adapter") as missing:
        choose({"notes.txt": 1})
    assert missing.value.value == "notes.txt"
