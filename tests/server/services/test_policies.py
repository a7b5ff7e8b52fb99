"""What a server was told about versions when it was started: the metrics they must reach, and how many are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lensmount.errors import IncompatibleError, UnavailableError
from lensmount.v1 import adapters_pb2
from lensmount_server.policy import parse_policy
from lensmount_server.registry import Registry
from registering import Ref, announced, asking, chunks, events, packed, promote, register, upload
from serving import Kit, Served, kept, refused, serving


def measured(folder: Path, target: Path, **metrics: float) -> Path:
    """A package whose own metrics are these."""
    shutil.copytree(folder, target)
    manifest = json.loads((target / "task.json").read_text())
    (target / "task.json").write_text(json.dumps({**manifest, "metrics": metrics}))
    return target


async def send(server: Served, folder: Path) -> adapters_pb2.RegisterAdapterResponse:
    data = packed(folder)
    return await server.adapters.RegisterAdapter(upload([announced(data), *chunks(data)]))


async def test_what_does_not_reach_the_minimum_is_refused(kit: Kit, tmp_path: Path) -> None:
    policy = parse_policy(["macro_f1=0.9", "defect:recall.crack=0.5"])
    async with serving(kit, tmp_path / "data", policy=policy) as server:
        low = measured(kit.surface.folder, tmp_path / "low", macro_f1=0.89)
        data = packed(low)
        error = await refused(server.adapters.RegisterAdapter(upload([announced(data), *chunks(data)])))
        assert isinstance(error, IncompatibleError)
        assert (error.field, error.value) == ("task.json: metrics.macro_f1", "0.89")
        assert "at least 0.9 for all tasks" in error.message
        assert "--minimum-metric" in error.fix
        data = packed(measured(kit.defect[0].folder, tmp_path / "missing", macro_f1=0.95))
        error = await refused(server.adapters.RegisterAdapter(upload([announced(data), *chunks(data)])))
        assert error.field == "task.json: metrics.recall.crack"
        assert "missing" in error.message
        assert [event.adapter.task for event in await events(server)] == ["surface", "defect"]
        assert not kept(server.data_dir).blobs
        done = await send(server, measured(kit.surface.folder, tmp_path / "good", macro_f1=0.9))
        (policy_check,) = [check for check in done.checks if check.name == "policy"]
        assert policy_check.detail == "macro_f1 0.9 of 0.9"


async def test_old_versions_go_after_a_registration(kit: Kit, tmp_path: Path) -> None:
    async with serving(kit, tmp_path / "data", keep_versions=1) as server:
        await register(server, kit.surface)
        await register(server, kit.defect[0], "live")
        async with asking(server, Ref(task="defect", version=1)):
            await register(server, kit.defect[1])
            await register(server, kit.defect[1])  # nothing new: nothing goes
            await register(server, kit.defect[2], validate_only=True)
            assert len(kept(server.data_dir).rows) == 3
            third = await register(server, kit.defect[2])
            assert third.adapter.version.version == 3
        listed = await server.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest(task="defect"))
        assert [adapter.version.version for adapter in listed.adapters] == [3, 1]
        assert len(kept(server.data_dir).rows) == 3
        (collected,) = [
            event for event in await events(server) if event.kind == adapters_pb2.AdapterEvent.KIND_COLLECTED
        ]
        assert (collected.adapter.version, collected.origin) == (2, "--keep-versions")
        await promote(server, 3)
        assert kept(server.data_dir).whole


@pytest.mark.parametrize("alias", ["", "live"])
async def test_what_was_just_registered_stays(kit: Kit, tmp_path: Path, alias: str) -> None:
    async with serving(kit, tmp_path / "data", keep_versions=1) as server:
        for number, version in enumerate(kit.defect, 1):
            done = await register(server, version, alias)
            assert done.adapter.version.version == number
        listed = await server.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest())
        versions = [adapter.version.version for adapter in listed.adapters]
        assert versions == ([3, 2, 1] if alias else [3])


async def test_a_collection_that_fails_takes_nothing_from_the_registration(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise UnavailableError("the database is away")

    async with serving(kit, tmp_path / "data", keep_versions=1) as server:
        await register(server, kit.defect[0])
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "collect", away)
            done = await register(server, kit.defect[1], "live")
        assert (done.adapter.version.version, done.alias.version) == (2, 2)
        assert len(kept(server.data_dir).rows) == 2
