from __future__ import annotations

import asyncio
import logging
import random
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from factories import pictures, random_backbone
from lensmount.archive import open_archive
from lensmount.errors import ConflictError, IncompatibleError, LensmountError, NotFoundError
from lensmount_adapters.admission import STEPS
from lensmount_adapters.backbones import Backbone
from lensmount_server.catalog import Catalog
from lensmount_server.engine.runtime import Engine
from lensmount_server.frames import Answer, Frame, Still, Want
from lensmount_server.gate import Check
from lensmount_server.mounts import Mounts
from lensmount_server.registrar import Registration
from lensmount_server.registry import Expected, Registry
from lensmount_server.scheduler import Scheduler
from serving import CLOSE, PATIENCE_S, Kit, Version, eventually, kept, stored

SHOT = pictures(1, seed=3)[0]


@asynccontextmanager
async def opened(backbone: Backbone, data_dir: Path) -> AsyncIterator[Catalog]:
    """A catalog over a data directory, as a server has it."""
    registry, mounts = Registry(data_dir), Mounts()
    scheduler = Scheduler(Engine(backbone), mounts)
    catalog = Catalog(registry, mounts, scheduler)
    try:
        await catalog.load_aliases()
        yield catalog
    finally:
        await catalog.close()
        await scheduler.close()
        registry.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def catalog(kit: Kit, data_dir: Path) -> AsyncIterator[Catalog]:
    async with opened(kit.backbone, data_dir) as one:
        yield one


async def register(catalog: Catalog, folder: Path, alias: str = "") -> Registration:
    async def receive(archive: Path) -> Check:
        with open_archive(folder) as packed:
            await asyncio.to_thread(archive.write_bytes, packed.file.read())
        return Check("upload", "", 0.0)

    return await catalog.register(receive, alias)


async def ask(catalog: Catalog, want: Want) -> Answer:
    (answer,) = await catalog.answer(Frame(Still(SHOT)), [want])
    return answer


async def test_a_registered_version_passed_every_check_in_order(catalog: Catalog, kit: Kit) -> None:
    done = await register(catalog, kit.defect[0].folder)
    assert [check.name for check in done.checks] == [
        "upload",
        *STEPS,
        "warm-up",
        "golden",
        "policy",
    ]
    assert all(check.duration_ms >= 0 for check in done.checks)
    assert done.is_new
    assert (done.record.id.version, done.record.aliases) == (1, ())
    with pytest.raises(NotFoundError):
        await ask(catalog, Want("defect"))


async def test_with_an_alias_it_is_live(catalog: Catalog, kit: Kit) -> None:
    done = await register(catalog, kit.defect[0].folder, alias="live")
    assert done.record.aliases == ("live",)
    answer = await ask(catalog, Want("defect"))
    assert answer.adapter == done.record.id
    assert answer.scores == pytest.approx(kit.defect[0].scores(SHOT), abs=CLOSE)


async def test_the_same_content_again_keeps_its_version(catalog: Catalog, kit: Kit, data_dir: Path) -> None:
    first = await register(catalog, kit.defect[0].folder)
    await register(catalog, kit.defect[1].folder)
    again = await register(catalog, kit.defect[0].folder, alias="live")
    assert not again.is_new
    assert again.record.id == first.record.id
    assert (await ask(catalog, Want("defect"))).adapter == first.record.id
    assert kept(data_dir).whole


async def test_a_promotion_answers_from_the_next_frame_on(catalog: Catalog, kit: Kit) -> None:
    for version in kit.defect:
        await register(catalog, version.folder)
    for number in (1, 3, 2):
        await catalog.promote("defect", "live", number)
        answer = await ask(catalog, Want("defect"))
        assert answer.adapter.version == number
        assert answer.scores == pytest.approx(kit.defect[number - 1].scores(SHOT), abs=CLOSE)
    done = await catalog.promote("defect", "live", 1, Expected(2))
    assert (done.previous, done.version) == (2, 1)
    assert done.switch_ms > 0


async def test_a_refused_promotion_changes_nothing(catalog: Catalog, kit: Kit) -> None:
    for version in kit.defect[:2]:
        await register(catalog, version.folder)
    await catalog.promote("defect", "live", 1)
    with pytest.raises(ConflictError):
        await catalog.promote("defect", "live", 2, Expected(2))
    with pytest.raises(NotFoundError):
        await catalog.promote("defect", "live", 3)
    assert (await ask(catalog, Want("defect"))).adapter.version == 1
    assert catalog.registry.resolve("defect", "live").id.version == 1


async def test_a_pinned_version_is_loaded_when_it_is_asked_for(kit: Kit, data_dir: Path) -> None:
    async with opened(kit.backbone, data_dir) as catalog:
        for version in kit.defect:
            await register(catalog, version.folder)
    async with opened(kit.backbone, data_dir) as catalog:
        answer = await ask(catalog, Want("defect", version=2))
        assert answer.adapter.version == 2
        assert answer.scores == pytest.approx(kit.defect[1].scores(SHOT), abs=CLOSE)
        with pytest.raises(NotFoundError, match="defect:4"):
            await ask(catalog, Want("defect", version=4))


async def test_aliases_answer_again_after_a_restart(kit: Kit, data_dir: Path) -> None:
    async with opened(kit.backbone, data_dir) as catalog:
        for version in kit.defect:
            await register(catalog, version.folder)
        await catalog.promote("defect", "live", 2)
        await catalog.promote("defect", "canary", 3)
    async with opened(kit.backbone, data_dir) as catalog:
        for alias, number in (("live", 2), ("canary", 3)):
            answer = await ask(catalog, Want("defect", alias))
            assert answer.adapter.version == number
            assert answer.scores == pytest.approx(kit.defect[number - 1].scores(SHOT), abs=CLOSE)


async def stock(kit: Kit, data_dir: Path) -> None:
    """Two versions of `defect`, the second live, and `surface` live."""
    async with opened(kit.backbone, data_dir) as catalog:
        await register(catalog, kit.defect[0].folder)
        await register(catalog, kit.defect[1].folder, alias="live")
        await register(catalog, kit.surface.folder, alias="live")


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


FILES = ("task.json", "adapter_config.json", "adapter_model.safetensors", "golden.safetensors", "README.md")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
async def test_a_bit_that_flips_on_disk_costs_that_version_and_nothing_else(
    kit: Kit, data_dir: Path, name: str, where: float, caplog: pytest.LogCaptureFixture
) -> None:
    await stock(kit, data_dir)
    file = stored(data_dir, kit.defect[1].adapter.content_hash) / name
    flip(file, round(where * (file.stat().st_size - 1)))
    with caplog.at_level(logging.ERROR):
        async with opened(kit.backbone, data_dir) as catalog:
            with pytest.raises(IncompatibleError, match=r"in quarantine: .*changed on disk"):
                await ask(catalog, Want("defect"))
            assert "defect:2 is in quarantine" in caplog.text
            assert (await ask(catalog, Want("surface"))).adapter.version == 1
            with pytest.raises(IncompatibleError, match="changed on disk"):
                await ask(catalog, Want("defect", version=2))
            with pytest.raises(IncompatibleError, match="changed on disk"):
                await catalog.promote("defect", "canary", 2)
            assert catalog.residency.state().quarantined == 1
            assert await ask(catalog, Want("defect", version=1))
            await catalog.promote("defect", "live", 1)
            assert (await ask(catalog, Want("defect"))).adapter.version == 1


async def test_other_content_in_its_place_is_refused_by_its_hash(kit: Kit, data_dir: Path) -> None:
    await stock(kit, data_dir)
    blob = stored(data_dir, kit.defect[1].adapter.content_hash)
    shutil.rmtree(blob)
    shutil.copytree(kit.defect[2].folder, blob)
    async with opened(kit.backbone, data_dir) as catalog:
        with pytest.raises(IncompatibleError, match="changed on disk") as caught:
            await ask(catalog, Want("defect", version=2))
    assert (caught.value.field, caught.value.value) == ("adapter", "defect:2")


async def test_a_package_that_is_gone_is_told(kit: Kit, data_dir: Path) -> None:
    await stock(kit, data_dir)
    shutil.rmtree(stored(data_dir, kit.defect[1].adapter.content_hash))
    async with opened(kit.backbone, data_dir) as catalog:
        with pytest.raises(NotFoundError, match="gone") as caught:
            await catalog.promote("defect", "live", 2)
        assert caught.value.fix
        assert await ask(catalog, Want("surface"))


@pytest.mark.parametrize("damage", ["flipped", "gone"])
async def test_registering_it_again_mends_a_package(kit: Kit, data_dir: Path, damage: str) -> None:
    await stock(kit, data_dir)
    blob = stored(data_dir, kit.defect[1].adapter.content_hash)
    if damage == "gone":
        shutil.rmtree(blob)
    else:
        flip(blob / "adapter_model.safetensors", -1)
    async with opened(kit.backbone, data_dir) as catalog:
        done = await register(catalog, kit.defect[1].folder)
        assert (done.is_new, done.record.id.version) == (False, 2)
    async with opened(kit.backbone, data_dir) as catalog:
        assert (await ask(catalog, Want("defect"))).scores == pytest.approx(kit.defect[1].scores(SHOT), abs=CLOSE)


async def test_a_file_that_can_not_be_read_does_not_keep_the_server_from_starting(kit: Kit, data_dir: Path) -> None:
    await stock(kit, data_dir)
    file = stored(data_dir, kit.defect[1].adapter.content_hash) / "task.json"
    file.unlink()
    file.symlink_to(file)
    async with opened(kit.backbone, data_dir) as catalog:
        assert await ask(catalog, Want("surface"))
        with pytest.raises(LensmountError):
            await ask(catalog, Want("defect", version=2))


async def test_another_backbone_leaves_out_what_does_not_fit_it(
    kit: Kit, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await stock(kit, data_dir)
    with caplog.at_level(logging.ERROR):
        async with opened(random_backbone(seed=1), data_dir) as catalog:
            assert "2 of 2 aliases can not answer" in caplog.text
            with pytest.raises(IncompatibleError, match="other weights"):
                await ask(catalog, Want("surface"))
            with pytest.raises(IncompatibleError, match="other weights"):
                await catalog.promote("surface", "live", 1)
    async with opened(kit.backbone, data_dir) as catalog:
        assert await ask(catalog, Want("surface"))


# A caller that goes away in the middle leaves no half behind.


class Held:
    """Holds a blocking function up until a test lets it go on."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self, *arguments: object) -> object:
        self.reached.set()
        assert self.go_on.wait(PATIENCE_S)
        return self._function(*arguments)


async def cancel_at(held: Held, call: asyncio.Task[object], catalog: Catalog) -> None:
    """Cancel a call while it is held up, then let it go on."""
    await eventually(held.reached.is_set, "the call is under way")
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    held.go_on.set()
    await catalog.close()


async def test_a_promotion_that_is_given_up_is_done_in_both_places(
    catalog: Catalog, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in kit.defect[:2]:
        await register(catalog, version.folder)
    await catalog.promote("defect", "live", 1)
    held = Held(catalog.registry.set_alias)
    monkeypatch.setattr(catalog.registry, "set_alias", held)
    await cancel_at(held, asyncio.ensure_future(catalog.promote("defect", "live", 2)), catalog)
    written = catalog.registry.resolve("defect", "live").id.version
    assert (await ask(catalog, Want("defect"))).adapter.version == written == 2


@pytest.mark.parametrize("step", ["add", "set_alias"])
async def test_a_registration_that_is_given_up_is_whole_or_not_there(
    catalog: Catalog, kit: Kit, data_dir: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    held = Held(getattr(catalog.registry, step))
    monkeypatch.setattr(catalog.registry, step, held)
    await cancel_at(held, asyncio.ensure_future(register(catalog, kit.defect[0].folder, alias="live")), catalog)
    assert kept(data_dir).whole
    assert kept(data_dir).rows
    assert (await ask(catalog, Want("defect"))).adapter == catalog.registry.resolve("defect", "live").id


async def test_giving_up_at_any_moment_leaves_every_version_whole(kit: Kit, data_dir: Path, tmp_path: Path) -> None:
    draw = random.Random(4)
    async with opened(kit.backbone, data_dir) as catalog:
        calls = []
        for number in range(24):
            folder = tmp_path / f"package-{number}"
            shutil.copytree(kit.defect[0].folder, folder)
            (folder / "README.md").write_text(f"# {number}\n")
            calls.append(asyncio.create_task(register(catalog, folder, alias="live")))
            await asyncio.sleep(draw.random() * 0.02)
            draw.choice(calls).cancel()
        await asyncio.wait(calls)
        await catalog.close()
        assert kept(data_dir).whole
        assert all(call.cancelled() or call.exception() is None for call in calls)
        live = catalog.registry.resolve("defect", "live").id
        assert (await ask(catalog, Want("defect"))).adapter == live
        for row in range(1, len(kept(data_dir).rows) + 1):
            assert (await ask(catalog, Want("defect", version=row))).adapter.version == row


async def test_registrations_at_the_same_time_keep_names_and_weights_together(
    catalog: Catalog, kit: Kit, data_dir: Path
) -> None:
    done = await asyncio.gather(*(register(catalog, version.folder) for version in (*kit.defect, *kit.defect)))
    oracle: dict[str, Version] = {version.adapter.content_hash: version for version in kit.defect}
    assert sum(each.is_new for each in done) == 3
    for each in done:
        answer = await ask(catalog, Want("defect", version=each.record.id.version))
        assert answer.adapter == each.record.id
        assert answer.scores == pytest.approx(oracle[each.record.id.content_hash].scores(SHOT), abs=CLOSE)
    assert kept(data_dir).whole
