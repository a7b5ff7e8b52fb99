from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmount import InvalidInputError, TaskRef
from lensmount.tasks import task_ref, task_refs

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
REFS = st.one_of(
    st.builds(TaskRef, NAMES),
    st.builds(TaskRef, NAMES, alias=NAMES),
    st.builds(TaskRef, NAMES, version=st.integers(1, 2**32 - 1)),
    st.builds(TaskRef, NAMES, alias=NAMES, max_fps=st.floats(0.001, 1000)),
    st.builds(TaskRef, NAMES, version=st.integers(1, 2**32 - 1), max_fps=st.floats(0.001, 1000)),
)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("defect", TaskRef("defect", "live", 0)),
        ("defect@canary", TaskRef("defect", "canary", 0)),
        ("defect@live", TaskRef("defect", "live", 0)),
        ("line-1.defect_b:3", TaskRef("line-1.defect_b", "live", 3)),
        ("scene/1fps", TaskRef("scene", max_fps=1)),
        ("scene@canary/0.5fps", TaskRef("scene", "canary", max_fps=0.5)),
        ("scene:3/29.97fps", TaskRef("scene", version=3, max_fps=29.97)),
    ],
)
def test_the_forms(text: str, ref: TaskRef) -> None:
    assert TaskRef.parse(text) == ref


@given(REFS)
def test_what_is_printed_can_be_read(ref: TaskRef) -> None:
    assert TaskRef.parse(str(ref)) == ref


@given(st.text(max_size=70))
def test_any_text_is_a_task_or_a_clear_error(text: str) -> None:
    with suppress(InvalidInputError):
        ref = TaskRef.parse(text)
        assert TaskRef.parse(str(ref)) == ref


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the task is"),
        ("@live", "the task is"),
        ("defect@", "the alias is"),
        ("de fect", "the task is"),
        ("défaut", "the task is"),
        ("defect:", "whole number"),
        ("defect:0", "whole number"),
        ("defect:-1", "whole number"),
        ("defect:two", "whole number"),
        ("defect:٣", "whole number"),
        ("defect:4294967296", "whole number"),
        ("defect@live:3", "exclude each other"),
        ("a" * 65, "1 to 64"),
        (" defect", "the task is"),
        ("defect\n", "the task is"),
        ("defect/", "a rate is"),
        ("defect/1", "a rate is"),
        ("defect/fps", "a rate is"),
        ("defect/-1fps", "a rate is"),
        ("defect/0fps", "a rate is"),
        ("defect/nanfps", "a rate is"),
        ("defect/1e3fps", "a rate is"),
        ("defect/1fps/2fps", "a rate is"),
        ("defect/0.0001fps", "not a rate"),
        ("defect/1001fps", "not a rate"),
        ("/1fps", "the task is"),
    ],
)
def test_each_wrong_part_is_named(text: str, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        TaskRef.parse(text)
    assert (caught.value.field, bool(caught.value.value)) == ("tasks", True)
    assert "defect@canary" in caught.value.fix or "frames a second" in caught.value.fix


def test_tasks_are_one_or_many_but_never_none() -> None:
    both = (TaskRef("defect"), TaskRef("scene", version=3))
    assert task_refs("defect") == (both[0],)
    assert task_refs(both[1]) == (both[1],)
    assert task_refs(["defect", both[1]]) == both
    assert task_refs(text for text in ("defect", "scene:3")) == both
    with pytest.raises(InvalidInputError, match="no task given"):
        task_refs([])


def test_a_task_is_text() -> None:
    with pytest.raises(InvalidInputError, match="not int"):
        task_ref(3)  # type: ignore[arg-type]
