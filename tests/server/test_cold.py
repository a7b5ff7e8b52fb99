"""Versions that are not in memory: who waits for them, and what becomes of those that can not answer."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from torch import Tensor

from houses import LIVE, SHOTS, SURFACE, ask, insert, of, opened, oracle, register, stock
from lensmount.errors import IncompatibleError, UnavailableError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.package import content_hash
from lensmount_server.frames import Answer, Frame, Still, VersionId, Want
from lensmount_server.mounts import ColdError, Mounts
from lensmount_server.scheduling import Terms
from serving import CLOSE, PATIENCE_S, Kit, kept, stored
from tampering import Tamper, in_json, in_tensors

# Who waits for what is cold: those who want it, and nobody else.


async def test_a_cold_adapter_keeps_no_other_task_waiting(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", Mounts()) as house:
        await ask(house.catalog, SURFACE)
        released = asyncio.Event()
        loop, read = asyncio.get_running_loop(), house.catalog.residency._read

        def slowly(version: VersionId) -> Adapter:
            if version.task == "defect":
                asyncio.run_coroutine_threadsafe(released.wait(), loop).result(PATIENCE_S)
            return read(version)

        monkeypatch.setattr(house.catalog.residency, "_read", slowly)
        cold = [asyncio.create_task(ask(house.catalog, LIVE, shot)) for shot in range(4)]
        for _ in range(20):
            assert (await ask(house.catalog, SURFACE)).adapter.task == "surface"
            assert (await ask(house.catalog, Want("grade"))).adapter.task == "grade"
        assert not any(each.done() for each in cold)
        assert not house.scheduler._waiting
        released.set()
        answers = await asyncio.gather(*cold)
        for shot, answer in enumerate(answers):
            assert answer.scores == pytest.approx(oracle(kit)[answer.adapter.content_hash][shot], abs=CLOSE)
        assert house.catalog.residency.state().loads == 3


async def test_a_row_is_refused_while_its_adapter_is_not_in_memory(kit: Kit, tmp_path: Path) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", of(1)) as house:
        with pytest.raises(ColdError):
            await house.scheduler.answer(Frame(Still(SHOTS[0])), [LIVE])
        await ask(house.catalog, LIVE)
        assert await house.scheduler.answer(Frame(Still(SHOTS[0])), [LIVE])
        await ask(house.catalog, SURFACE)
        with pytest.raises(UnavailableError, match="not in memory"):
            await house.scheduler.answer(Frame(Still(SHOTS[0])), [LIVE])


async def test_an_alias_that_moves_to_a_cold_version_while_a_frame_waits_is_followed(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", of(1)) as house:
        answer, asked = house.scheduler.answer, []

        async def moved_meanwhile(frame: Frame, wants: Sequence[Want], terms: Terms) -> list[Answer]:
            asked.append(wants)
            if len(asked) == 1:
                await house.catalog.promote("defect", "live", 2)
                await house.catalog.ensure([SURFACE])
            return await answer(frame, wants, terms)

        monkeypatch.setattr(house.scheduler, "answer", moved_meanwhile)
        assert (await ask(house.catalog, LIVE)).adapter.version == 2
        assert len(asked) == 2


# What is wrong with one version.


def corrupt(data_dir: Path, hash_: str) -> None:
    file = stored(data_dir, hash_) / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


async def test_a_cold_version_that_was_changed_on_disk_is_refused_and_nobody_else_notices(
    kit: Kit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await stock(kit, tmp_path / "data")
    corrupt(tmp_path / "data", kit.defect[0].adapter.content_hash)
    async with opened(kit, tmp_path / "data", Mounts()) as house:
        others = [asyncio.create_task(ask(house.catalog, want)) for want in (SURFACE, Want("grade")) * 20]
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                with pytest.raises(IncompatibleError, match=r"in quarantine: .*changed on disk") as caught:
                    await ask(house.catalog, LIVE)
        assert caught.value.value == "defect:1"
        assert "register the package again" in caught.value.fix
        for answer in await asyncio.gather(*others):
            assert answer.scores == pytest.approx(oracle(kit)[answer.adapter.content_hash][0], abs=CLOSE)
        await house.catalog.promote("defect", "live", 2)
        assert (await ask(house.catalog, LIVE)).adapter.version == 2
        await register(house.catalog, kit.defect[0].folder, alias="live")
        assert (await ask(house.catalog, LIVE)).adapter.version == 1
        assert house.catalog.residency.state().quarantined == 0


def slip_in(kit: Kit, data_dir: Path, task: str, folder: Path) -> None:
    """Put a package and its row, live, where they belong, past the gate."""
    hash_ = content_hash(folder)
    shutil.copytree(folder, data_dir / "blobs" / hash_)
    insert(data_dir, [(hash_, task)], (kit.defect[0].folder / "task.json").read_text())


def lora_of(value: float) -> Tamper:
    """Such a number in all of a package's LoRA."""

    def fill(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if "lora_" in name:
                tensor.fill_(value)

    return in_tensors(fill)


SPOILT: dict[str, tuple[str, Tamper]] = {
    "NaN": ("in quarantine: .*holds NaN", lora_of(float("nan"))),
    "warm-up": ("in quarantine: warm-up: .*NaN or infinity", lora_of(3e38)),
    "rank": ("in quarantine: adapter_config.json: r: .*256", in_json("adapter_config.json", "r", value=257)),
}


@pytest.mark.parametrize("fault", SPOILT)
async def test_an_adapter_that_can_not_answer_is_in_quarantine(kit: Kit, tmp_path: Path, fault: str) -> None:
    await stock(kit, tmp_path / "data")
    message, spoil = SPOILT[fault]
    folder = Path(shutil.copytree(kit.defect[0].folder, tmp_path / "spoilt"))
    spoil(folder)
    slip_in(kit, tmp_path / "data", "spoilt", folder)
    async with opened(kit, tmp_path / "data", Mounts()) as house:
        for _ in range(2):
            with pytest.raises(IncompatibleError, match=message):
                await ask(house.catalog, Want("spoilt"))
        assert await ask(house.catalog, LIVE)
        assert house.catalog.residency.state().quarantined == 1


async def test_a_registration_that_fails_on_warm_up_leaves_nothing(kit: Kit, tmp_path: Path) -> None:
    await stock(kit, tmp_path / "data")
    before = kept(tmp_path / "data")
    folder = Path(shutil.copytree(kit.defect[0].folder, tmp_path / "spoilt"))
    lora_of(3e38)(folder)
    async with opened(kit, tmp_path / "data", Mounts()) as house:
        with pytest.raises(IncompatibleError, match="NaN or infinity") as caught:
            await register(house.catalog, folder, alias="live")
        assert caught.value.field == "warm-up"
        assert kept(tmp_path / "data") == before
        assert house.engine.warm == set()
        assert house.catalog.residency.state().hot == 0
        assert (await ask(house.catalog, LIVE)).adapter.version == 1
