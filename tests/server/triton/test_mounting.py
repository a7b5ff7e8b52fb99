"""Adapters follow the registry into the Triton; what must not answer does not get in."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from factories import random_backbone
from lensmount.archive import open_archive
from lensmount.errors import IncompatibleError, InvalidInputError, LensmountError, UnavailableError
from lensmount_server.triton.fleet import examined
from lensmount_server.triton.instance import Instance
from lensmount_server.triton.opening import open_triton
from lensmount_server.triton.wire import NotMountedError, Place
from serving import Kit
from triton_server import TritonServer
from tritons import asking, executor_of, fleet_of, jobs_of, packages, right

pytestmark = pytest.mark.triton


def packed(folder: Path) -> bytes:
    with open_archive(folder) as file:
        return file.file.read()


def test_an_adapter_comes_and_goes(kit: Kit, both: list[TritonServer]) -> None:
    adapter = kit.defect[0].adapter
    with asking(kit, *both, mount=False) as engine:
        instances = [member.instance for member in fleet_of(engine).members]
        engine.mount(adapter)
        assert [each.describe().mounted for each in instances] == [(adapter.content_hash,)] * 2
        engine.settle(adapter.content_hash, 20)
        for each in instances:
            each.wait_for(adapter.content_hash, (Place.SETTLED,), 0.5)
        jobs = jobs_of([[adapter]] * 3)
        assert right(kit, jobs, engine.run(jobs))
        engine.unmount(adapter.content_hash)
        assert [each.describe().mounted for each in instances] == [()] * 2


def test_an_adapter_that_was_taken_away_behind_our_back_is_brought_again(kit: Kit, triton: TritonServer) -> None:
    with asking(kit, triton) as engine:
        stranger = Instance(triton.url)
        stranger.unmount(kit.grade.adapter.content_hash)
        jobs = jobs_of([[kit.grade.adapter, kit.surface.adapter]] * 2)
        assert right(kit, jobs, engine.run(jobs))
        assert kit.grade.adapter.content_hash in stranger.describe().mounted
        stranger.close()


def test_an_adapter_that_was_never_mounted_does_not_answer(kit: Kit, triton: TritonServer) -> None:
    with asking(kit, triton, mount=False) as engine:
        with pytest.raises(NotMountedError):
            engine.run(jobs_of([[kit.surface.adapter]]))
        assert executor_of(engine).segment_rows == [0] * len(kit.backbone.segments)


def test_what_another_server_left_is_taken_away(kit: Kit, triton: TritonServer) -> None:
    with asking(kit, triton):
        pass
    with asking(kit, triton, mount=False) as engine:
        (member,) = fleet_of(engine).members
        assert member.instance.describe().mounted == ()


@pytest.mark.parametrize("harm", ["half", "label", "bits", "nothing"])
def test_a_broken_package_is_refused_by_its_error(
    kit: Kit, both: list[TritonServer], tmp_path: Path, harm: str
) -> None:
    folder = tmp_path / "package"
    shutil.copytree(kit.defect[0].folder, folder)
    tensors = folder / "adapter_model.safetensors"
    if harm == "half":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif harm == "label":
        task = json.loads((folder / "task.json").read_text())
        (folder / "task.json").write_text(json.dumps({**task, "labels": task["labels"][:-1]}))
    elif harm == "bits":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(data)
    fake = replace(kit.defect[0].adapter, content_hash=hashlib.sha256(harm.encode()).hexdigest())
    with asking(kit, *both, more={fake.content_hash: folder}) as engine:
        with pytest.raises((InvalidInputError, IncompatibleError)) as caught:
            engine.mount(fake)
        assert caught.value.field != ""
        mounted = {version.adapter.content_hash for version in kit.versions}
        for member in fleet_of(engine).members:
            assert member.ready
            assert set(member.instance.describe().mounted) == mounted


def test_one_triton_that_refuses_keeps_it_out_of_all(kit: Kit, both: list[TritonServer]) -> None:
    adapter = kit.surface.adapter
    with asking(kit, *both, mount=False) as engine:
        good, bad = fleet_of(engine).members

        def refuse(content_hash: str, archive: bytes) -> None:
            raise InvalidInputError("no", field="adapter", value=f"{content_hash} {len(archive)}")

        bad.instance.mount = refuse  # type: ignore[method-assign] # no package is right for one and wrong for another
        with pytest.raises(InvalidInputError):
            engine.mount(adapter)
        assert good.instance.describe().mounted == ()


def test_a_hash_that_is_not_the_content_s_is_refused(kit: Kit, triton: TritonServer) -> None:
    instance = Instance(triton.url)
    with pytest.raises(IncompatibleError, match="not what it was sent as"):
        instance.mount("ab" * 32, packed(kit.surface.folder))
    instance.close()


def test_other_weights_are_refused(kit: Kit, triton: TritonServer) -> None:
    other = random_backbone(seed=5)
    with pytest.raises(IncompatibleError, match="lensmount export triton") as caught:
        open_triton(other, [triton.url], packages(kit))
    assert (caught.value.field, caught.value.value) == ("triton", triton.url)
    assert other.fingerprint[:12] in caught.value.message
    with pytest.raises(IncompatibleError):
        examined(other, triton.url)
    assert examined(kit.backbone, triton.url) == "torch in fp32 on cpu"


def test_without_any_triton_there_is_no_start_with_one_there_is(kit: Kit, triton: TritonServer) -> None:
    nobody = "127.0.0.1:9"
    with pytest.raises(UnavailableError, match="tritonserver") as caught:
        open_triton(kit.backbone, [nobody], packages(kit))
    assert caught.value.value == nobody
    engine = open_triton(kit.backbone, [nobody, triton.url], packages(kit))
    try:
        assert f"{nobody} is away" in engine.choice.reason
        engine.mount(kit.surface.adapter)
        jobs = jobs_of([[kit.surface.adapter]] * 4)
        assert right(kit, jobs, engine.run(jobs))
    finally:
        engine.close()


def test_a_model_that_is_not_there_is_told(kit: Kit, triton: TritonServer) -> None:
    triton.unload()
    try:
        with pytest.raises(LensmountError) as caught:
            open_triton(kit.backbone, [triton.url], packages(kit))
        assert isinstance(caught.value, UnavailableError)
        assert "lensmount" in caught.value.message
    finally:
        triton.load()
