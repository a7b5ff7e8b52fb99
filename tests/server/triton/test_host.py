"""The hosted engine without a Triton: every request has an answer, and what can not be answered is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from lensmount.archive import open_archive
from lensmount.errors import IncompatibleError, InvalidInputError, LensmountError, ServerError
from lensmount_server.engine.runtime import Engine
from lensmount_server.export.triton import export_triton
from lensmount_server.triton.host import Answer, Host
from lensmount_server.triton.hosted import open_host
from lensmount_server.triton.wire import REPLY, NotMountedError, Op, Place, Reply, Request, Rows, read_reply
from serving import Kit, Version
from tritons import SETTINGS, SHOTS


@pytest.fixture
def host(kit: Kit) -> Iterator[Host]:
    made = Host(Engine(kit.backbone))
    yield made
    made.close()


def ask(
    host: Host, op: Op, pictures: torch.Tensor | None = None, package: bytes | None = None, **facts: Any
) -> tuple[Reply, Answer]:
    request = Request(id=3, op=op, **facts)
    sent = None if package is None else torch.frombuffer(bytearray(package), dtype=torch.uint8)
    answer = host.answer(request.model_dump_json().encode(), pictures, sent)
    return read_reply({REPLY: answer.reply}, request, "host"), answer


def mount(host: Host, version: Version) -> None:
    with open_archive(version.folder) as archive:
        ask(host, Op.MOUNT, package=archive.file.read(), content_hash=version.adapter.content_hash)
    host.shelf._changing.submit(int).result()  # what was begun before is done
    host.shelf._settling.submit(int).result()


def seen(kit: Kit) -> torch.Tensor:
    return torch.stack([kit.backbone.preprocessing.prepare(shot) for shot in SHOTS[:2]])


def rows(*versions: Version, frames: tuple[int, ...] = (0, 1)) -> Mapping[str, Any]:
    return {"rows": tuple(Rows(content_hash=each.adapter.content_hash, frames=frames) for each in versions)}


def test_a_package_is_mounted_runs_and_goes(kit: Kit, host: Host) -> None:
    version, content_hash = kit.grade, kit.grade.adapter.content_hash
    assert ask(host, Op.STATE, content_hash=content_hash)[0].place is Place.ABSENT
    mount(host, version)
    assert ask(host, Op.STATE, content_hash=content_hash)[0].place is Place.SETTLED
    reply, answer = ask(host, Op.RUN, seen(kit), preprocessing=kit.backbone.preprocessing, **rows(version))
    assert answer.logits is not None
    assert answer.hashes is not None
    assert answer.hashes.numpy().tobytes().hex() == content_hash
    wanted = torch.stack([version.logits(shot) for shot in SHOTS[:2]])
    assert torch.allclose(answer.logits.view(2, -1), wanted, atol=1e-4)
    assert reply.segment_rows[-1] == 2
    assert ask(host, Op.UNMOUNT, content_hash=content_hash)[0].place is Place.ABSENT
    with pytest.raises(NotMountedError):
        ask(host, Op.RUN, seen(kit), preprocessing=kit.backbone.preprocessing, **rows(version))


def test_one_adapter_that_is_not_there_is_enough_to_refuse(kit: Kit, host: Host) -> None:
    mount(host, kit.surface)
    with pytest.raises(NotMountedError):
        ask(host, Op.RUN, seen(kit), preprocessing=kit.backbone.preprocessing, **rows(kit.surface, kit.grade))


def test_a_package_that_failed_can_be_sent_again(kit: Kit, host: Host) -> None:
    content_hash = kit.surface.adapter.content_hash
    with suppress(InvalidInputError):  # it may have failed by then
        ask(host, Op.MOUNT, package=b"no archive", content_hash=content_hash)
    host.shelf._changing.submit(int).result()
    with pytest.raises(InvalidInputError, match="archive"):
        ask(host, Op.STATE, content_hash=content_hash)
    mount(host, kit.surface)
    assert ask(host, Op.STATE, content_hash=content_hash)[0].place is Place.SETTLED


@pytest.mark.parametrize(
    ("facts", "frames"),
    [
        ({}, (0, 2)),
        ({}, (-1,)),
        ({}, (1, 0)),
        ({}, (0, 0)),
        ({"preprocessing": None}, (0,)),
        ({"rows": ()}, (0,)),
        ({"other": True}, (0,)),
    ],
)
def test_a_run_that_does_not_fit_is_refused(
    kit: Kit, host: Host, facts: dict[str, Any], frames: tuple[int, ...]
) -> None:
    mount(host, kit.surface)
    own = kit.backbone.preprocessing
    if facts.pop("other", False):
        facts = {"preprocessing": own.model_copy(update={"crop_pct": 0.5})}
    with pytest.raises(InvalidInputError):
        ask(host, Op.RUN, seen(kit), **{"preprocessing": own, **rows(kit.surface, frames=frames), **facts})


def test_pictures_of_another_size_and_none_are_refused(kit: Kit, host: Host) -> None:
    mount(host, kit.surface)
    facts = {"preprocessing": kit.backbone.preprocessing, **rows(kit.surface)}
    for pictures in (None, seen(kit)[:, :, :-1], seen(kit)[:1]):
        with pytest.raises(InvalidInputError):
            ask(host, Op.RUN, pictures, **facts)


def test_a_defect_is_told_by_its_number_in_the_log(
    kit: Kit, host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mount(host, kit.surface)

    def broken(*_: object) -> list[torch.Tensor]:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(host.engine.executor, "run", broken)
    with pytest.raises(ServerError) as caught:
        ask(host, Op.RUN, seen(kit), preprocessing=kit.backbone.preprocessing, **rows(kit.surface))
    assert "inside" not in str(caught.value)
    assert "ZeroDivisionError" in caplog.text


def test_what_was_exported_is_hosted_and_other_weights_are_not(kit: Kit, tmp_path: Path) -> None:
    folder = export_triton(tmp_path, kit.backbone, SETTINGS) / "1"
    told = {"backbone": kit.backbone.name, "fingerprint": kit.backbone.fingerprint, "engine": "reference"}
    told |= {"precision": "fp32", "threads": "1", "merged_mib": "0", "device": "cpu"}
    host = open_host(told, folder)
    described = ask(host, Op.DESCRIBE)[0].description
    host.close()
    assert described is not None
    assert (described.fingerprint, described.precision) == (kit.backbone.fingerprint, "fp32")
    with pytest.raises(IncompatibleError, match="not the weights"):
        open_host({**told, "fingerprint": "0" * 64}, folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(LensmountError):
        open_host(told, folder)
