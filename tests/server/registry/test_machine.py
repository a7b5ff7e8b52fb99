"""Random histories: the registry does what the model does, and models or registries with a defect are caught."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from lensmount_server.registry import Places, aliases, removing
from registries import Shelf
from registry_model import Forgetful, Greedy, Machine, Model, ToAndFro

THOROUGH = settings(max_examples=30, stateful_step_count=40, deadline=None)
BRIEF = settings(THOROUGH, max_examples=10)
CONTROL = settings(
    THOROUGH,
    max_examples=60,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
# What the machine found: an assertion, or an error that did not come.
DIFFERENCE = (AssertionError, pytest.fail.Exception)


def run(new_places: Callable[[], Places], shelf: Shelf, how: settings, model: Callable[[], Model] = Model) -> None:
    factory: Any = partial(Machine, new_places, shelf, model)
    run_state_machine_as_test(factory, settings=how)


def test_the_registry_does_what_the_model_does(
    new_places: Callable[[], Places], shelf: Shelf, request: pytest.FixtureRequest
) -> None:
    on_sqlite = "sqlite" in request.node.name
    run(new_places, shelf, THOROUGH if on_sqlite else BRIEF)


@pytest.mark.parametrize("model", [Forgetful, ToAndFro, Greedy])
@pytest.mark.parametrize("new_places", ["sqlite"], indirect=True)
def test_a_wrong_model_is_caught(new_places: Callable[[], Places], shelf: Shelf, model: type[Model]) -> None:
    with pytest.raises(DIFFERENCE):
        run(new_places, shelf, CONTROL, model)


def to_and_fro(*arguments: Any, **options: Any) -> Any:
    *others, restored = arguments if len(arguments) == 7 else (*arguments, None)
    del restored
    return SET_ALIAS(*others, **options)


def deletes_the_pinned(*_: object) -> None:
    return None


SET_ALIAS = aliases.set_alias


@pytest.mark.parametrize(
    ("where", "name", "defect"),
    [
        (aliases, "set_alias", to_and_fro),
        (removing, "check_free", deletes_the_pinned),
        (removing, "_reachable", lambda _: set()),
        (removing, "BACK", 1),
        (aliases, "_check", lambda *_: None),
    ],
)
@pytest.mark.parametrize("new_places", ["sqlite"], indirect=True)
def test_a_registry_with_a_defect_is_caught(
    new_places: Callable[[], Places],
    shelf: Shelf,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    defect: object,
) -> None:
    monkeypatch.setattr(where, name, defect)
    with pytest.raises(DIFFERENCE):
        run(new_places, shelf, CONTROL)
