"""`lensmount adapters fetch`: a package from where others publish them, whole or not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner

from lensmount.cli.group import CommandGroup
from lensmount.errors import AlreadyExistsError, InvalidInputError, LensmountError, NotFoundError
from lensmount_adapters.package import content_hash
from lensmount_server.tools.commands import fetch
from lensmount_server.tools.fetching import fetch_package
from serving import Kit


@pytest.fixture
def bucket(kit: Kit) -> Iterator[Any]:
    """An object store with a package in it, and what else lies in such places."""
    files = fsspec.filesystem("memory")
    for path in kit.defect[0].folder.iterdir():
        files.pipe_file(f"/bucket/defect/{path.name}", path.read_bytes())
    files.pipe_file("/bucket/defect/training_args.bin", b"pickle")
    yield files
    files.rm("/bucket", recursive=True)


def test_a_package_comes_as_it_is(bucket: Any, kit: Kit, tmp_path: Path) -> None:
    package = fetch_package("memory://bucket/defect", tmp_path / "runs" / "defect")
    assert package.content_hash == content_hash(tmp_path / "runs" / "defect") == kit.defect[0].adapter.content_hash
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["defect"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [("memory://bucket/nothing", NotFoundError), ("memory://bucket/damaged", InvalidInputError)],
)
def test_what_is_no_package_leaves_nothing(
    bucket: Any, kit: Kit, tmp_path: Path, address: str, expected: type[LensmountError]
) -> None:
    bucket.pipe_file("/bucket/damaged/task.json", b"{}")
    with pytest.raises(expected) as caught:
        fetch_package(address, tmp_path / "runs" / "defect")
    assert caught.value.field
    assert caught.value.fix
    assert not list(tmp_path.glob("runs/*"))


def test_what_is_there_is_not_overwritten(bucket: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(AlreadyExistsError) as caught:
        fetch_package("memory://bucket/defect", tmp_path / "mine")
    assert (caught.value.field, Path(caught.value.value)) == ("path", tmp_path / "mine")


def test_the_command_says_what_is_next(bucket: Any, tmp_path: Path) -> None:
    group = CommandGroup(commands={"fetch": fetch}, entry_group="nothing.of.the.kind")
    result = CliRunner().invoke(group, ["fetch", "memory://bucket/defect", str(tmp_path / "a")])
    assert (result.exit_code, "lensmount register" in result.stdout) == (0, True)
    result = CliRunner().invoke(group, ["fetch", "memory://bucket/defect", str(tmp_path / "b"), "--json"])
    assert json.loads(result.stdout)["task"] == "defect"
