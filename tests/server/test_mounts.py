from __future__ import annotations

import pytest

from lensmount.errors import NotFoundError, TooLargeError, UnavailableError
from lensmount_server.frames import VersionId, Want
from lensmount_server.hotset import HotLimits, HotSet
from lensmount_server.mounts import NAMED, ColdError, Mounted, Mounts
from serving import Kit


def mounted(kit: Kit, version: int, task: str = "defect") -> Mounted:
    return Mounted(version_id(version, task), kit.defect[0].adapter)


def version_id(version: int, task: str = "defect") -> VersionId:
    return VersionId(task, version, f"{task}-{version}")


def small(count: int) -> Mounts:
    return Mounts(HotSet(HotLimits(count)))


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
    assert before["defect", "live"].version == 1


def test_a_version_that_is_hot_can_be_asked_for_by_number(kit: Kit) -> None:
    mounts, first = Mounts(), mounted(kit, 1)
    mounts.point("canary", first)
    assert mounts.resolve(Want("defect", version=1)) is first
    assert mounts.version(Want("defect", version=1)) == first.id
    assert mounts.version(Want("defect", version=2)) is None
    assert mounts.version(Want("scene", version=1)) is None


def test_what_an_alias_points_at_and_is_not_hot_is_refused_and_never_replaced(kit: Kit) -> None:
    mounts = Mounts()
    mounts.point("live", mounted(kit, 1))
    mounts.replace([("live", version_id(2), 2), ("canary", version_id(1), 1)])
    assert mounts.version(Want("defect")) == version_id(2)
    with pytest.raises(ColdError) as caught:
        mounts.resolve(Want("defect"))
    assert isinstance(caught.value, UnavailableError)
    assert (caught.value.field, caught.value.value, caught.value.fix) == ("tasks", "defect@live", "ask again")
    assert mounts.resolve(Want("defect", "canary")).id == version_id(1)


def test_what_a_batch_resolved_stays_until_the_batch_ends(kit: Kit) -> None:
    mounts = small(1)
    mounts.point("live", mounted(kit, 1))
    with mounts.leases() as leases:
        held = leases.resolve(Want("defect"))
        mounts.point("live", mounted(kit, 1, "scene"))
        assert mounts.resolve(Want("defect")) is held
        with pytest.raises(ColdError):
            mounts.resolve(Want("scene"))
    mounts.point("live", mounted(kit, 1, "scene"))
    with pytest.raises(ColdError):
        mounts.resolve(Want("defect"))


def test_a_want_that_can_not_be_resolved_leaves_no_lease_behind(kit: Kit) -> None:
    mounts = Mounts()
    mounts.point("live", mounted(kit, 1))
    with pytest.raises(NotFoundError), mounts.leases() as leases:
        tuple(map(leases.resolve, [Want("defect"), Want("weather")]))
    assert not mounts.hot.leased


def test_an_open_stream_keeps_what_its_alias_points_at_through_promotions(kit: Kit) -> None:
    mounts = small(2)
    mounts.point("live", mounted(kit, 1))
    with mounts.pinned([Want("defect")]), mounts.pinned([Want("defect")]):
        for other in range(3):
            mounts.point("live", mounted(kit, 1, f"scene-{other}"))
        assert mounts.resolve(Want("defect")).id.version == 1
        mounts.point("live", mounted(kit, 2))
        for other in range(3):
            mounts.point("live", mounted(kit, 2, f"scene-{other}"))
        assert mounts.resolve(Want("defect")).id.version == 2
        assert mounts.hot.pinned == {("defect", 2)}
    assert not mounts.hot.pinned


def test_a_stream_may_be_opened_before_its_alias_is_there(kit: Kit) -> None:
    mounts = small(1)
    with mounts.pinned([Want("defect")]):
        mounts.point("live", mounted(kit, 1))
        mounts.point("live", mounted(kit, 1, "scene"))
        assert mounts.resolve(Want("defect")).id.version == 1
    mounts.point("live", mounted(kit, 2, "scene"))
    with pytest.raises(ColdError):
        mounts.resolve(Want("defect"))


def test_a_pinned_version_stays(kit: Kit) -> None:
    mounts, held = small(2), mounted(kit, 1)
    mounts.pin(held)
    for version in range(2, 9):
        mounts.point("live", mounted(kit, version))
    assert mounts.resolve(Want("defect", version=1)) is held


def test_streams_can_not_pin_more_than_may_be_hot(kit: Kit) -> None:
    mounts = small(2)
    for task in ("defect", "scene", "grade"):
        mounts.point("live", mounted(kit, 1, task))
    with mounts.pinned([Want("defect"), Want("scene")]):
        with mounts.pinned([Want("scene"), Want("defect", version=1)]):
            pass
        with pytest.raises(TooLargeError, match="2 adapters that may be hot") as caught, mounts.pinned([Want("grade")]):
            pass
    assert "--hot-adapters" in caught.value.fix
    with mounts.pinned([Want("grade")]):
        assert mounts.hot.pinned == {("grade", 1)}


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


def test_among_thousands_of_tasks_an_error_names_a_few() -> None:
    mounts = Mounts()
    mounts.replace(("live", version_id(1, f"task-{number:05d}"), number) for number in range(10_000))
    with pytest.raises(NotFoundError) as caught:
        mounts.resolve(Want("defect"))
    assert "task-00000" in caught.value.fix
    assert f"and {10_000 - NAMED:,} more" in caught.value.fix
    assert len(caught.value.fix) < 300
