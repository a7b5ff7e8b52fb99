from __future__ import annotations

from lensmount_server.firsts import FirstAnswer, FirstAnswers
from lensmount_server.frames import Answer, VersionId, Want

LIVE = (Want("defect"),)


def version(number: int) -> VersionId:
    return VersionId("defect", number, f"hash-{number}")


def answered(firsts: FirstAnswers, number: int, want: Want = LIVE[0]) -> None:
    firsts.seen([want], [Answer(version(number), ("ok",), (1.0,), ("ok",), 0.0, 1.0)])


def told() -> tuple[FirstAnswers, list[FirstAnswer]]:
    found: list[FirstAnswer] = []
    return FirstAnswers(found.append), found


async def test_each_change_is_told_once_whoever_expects_it() -> None:
    firsts, found = told()
    one = firsts.expect("live", version(1), 4)
    answered(firsts, 1)
    other = firsts.expect("live", version(1), 4)  # the follower, or the promotion, comes later
    answered(firsts, 1)
    assert one is other
    assert one.done()
    assert [(each.version.version, each.seq) for each in found] == [(1, 4)]


async def test_an_answer_of_another_version_or_by_number_is_not_the_first() -> None:
    firsts, found = told()
    first = firsts.expect("live", version(2), 4)
    answered(firsts, 1)
    answered(firsts, 2, Want("defect", version=2))
    answered(firsts, 2, Want("defect", alias="canary"))
    assert not found
    assert not first.done()
    answered(firsts, 2)
    assert [each.seq for each in found] == [4]


async def test_a_change_that_was_overtaken_is_never_told() -> None:
    firsts, found = told()
    first, second = firsts.expect("live", version(1), 4), firsts.expect("live", version(2), 5)
    late = firsts.expect("live", version(1), 4)
    assert first.cancelled()
    assert late.cancelled()
    answered(firsts, 1)
    assert not found
    answered(firsts, 2)
    assert second.done()
    assert [each.seq for each in found] == [5]


async def test_the_same_version_again_is_another_change() -> None:
    firsts, found = told()
    for seq in (4, 6):
        firsts.expect("live", version(1), seq)
        answered(firsts, 1)
    assert [each.seq for each in found] == [4, 6]
