from __future__ import annotations

import gc

import pytest

from lensmount.errors import NotFoundError
from lensmount_server.frames import VersionId, Want
from lensmount_server.mounts import RECENT, Mounted, Mounts
from serving import Kit


def mounted(kit: Kit, version: int, task: str = "defect") -> Mounted:
    adapter = kit.defect[0].adapter
    return Mounted(VersionId(task, version, f"{version:064x}"), adapter)


def test_an_alias_answers_with_what_it_points_at(kit: Kit) -> None:
    mounts, first, second = Mounts(), mounted(kit, 1), mounted(kit, 2)
    mounts.point("live", first)
    mounts.point("canary", second)
    assert mounts.resolve(Want("defect")) is first
    assert mounts.resolve(Want("defect", "canary")) is second
    mounts.point("live", second)
    assert mounts.resolve(Want("defect")) is second


def test_tasks_have_their_own_aliases(kit: Kit) -> None:
    mounts, defect, scene = Mounts(), mounted(kit, 1), mounted(kit, 1, "scene")
    mounts.point("live", defect)
    mounts.point("live", scene)
    assert mounts.resolve(Want("defect")) is defect
    assert mounts.resolve(Want("scene")) is scene


def test_a_table_that_was_read_does_not_change(kit: Kit) -> None:
    mounts = Mounts()
    mounts.point("live", mounted(kit, 1))
    before = mounts._aliases
    mounts.point("live", mounted(kit, 2))
    assert before["defect", "live"].id.version == 1


def test_a_version_that_an_alias_points_at_can_be_asked_for_by_number(kit: Kit) -> None:
    mounts, first = Mounts(), mounted(kit, 1)
    mounts.point("canary", first)
    assert mounts.resolve(Want("defect", version=1)) is first
    assert mounts.find("defect", 1) is first
    assert mounts.find("defect", 2) is None
    assert mounts.find("scene", 1) is None


def test_a_pinned_version_stays_as_long_as_it_is_held(kit: Kit) -> None:
    mounts, held = Mounts(), mounted(kit, 1)
    mounts.pin(held)
    for version in range(2, RECENT + 3):
        mounts.pin(mounted(kit, version))
    gc.collect()
    assert mounts.resolve(Want("defect", version=1)) is held
    assert mounts.find("defect", 2) is None
    assert mounts.find("defect", 3) is not None


@pytest.mark.parametrize(
    ("want", "value", "fix"),
    [
        (Want("weather"), "weather", "ask for one of: defect, scene"),
        (Want("defect", "canary"), "defect@canary", "lensmount promote defect VERSION --alias canary"),
        (Want("defect", version=7), "defect:7", "lensmount adapters list"),
    ],
)
def test_what_is_not_there_is_named_with_what_to_do(kit: Kit, want: Want, value: str, fix: str) -> None:
    mounts = Mounts()
    mounts.point("live", mounted(kit, 1))
    mounts.point("live", mounted(kit, 1, "scene"))
    with pytest.raises(NotFoundError) as caught:
        mounts.resolve(want)
    assert (caught.value.field, caught.value.value) == ("tasks", value)
    assert fix in caught.value.fix


def test_without_any_task_the_fix_is_to_register_one() -> None:
    with pytest.raises(NotFoundError) as caught:
        Mounts().resolve(Want("defect"))
    assert caught.value.fix.startswith("register an adapter")
