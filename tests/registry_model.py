"""What a registry must do, in plain Python, and a machine that does the same things to both and compares."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger import check_whole
from lensmount.errors import ConflictError, IncompatibleError, LensmountError, NotFoundError
from lensmount_server.registry import Expected, Places, Registry
from registries import Shelf, add, points

TASKS = ["defect", "surface"]
ALIASES = ["live", "canary"]
CARDS = [str(number) for number in range(1, 10)]
BACK = 5

Number = tuple[str, int]
Alias = tuple[str, str]

tasks, names, cards = st.sampled_from(TASKS), st.sampled_from(ALIASES), st.sampled_from(CARDS)
# Which of the versions that are there; the last few are some that may not be there.
picks = st.integers(0, 13)


@dataclass
class Model:
    """Versions by number with their content; for each alias what it pointed at, the last of which is now."""

    versions: dict[Number, str] = field(default_factory=dict)
    given: Counter[str] = field(default_factory=Counter)
    aliases: dict[Alias, list[int]] = field(default_factory=dict)
    pins: dict[Number, str] = field(default_factory=dict)
    tags: dict[Number, dict[str, str]] = field(default_factory=dict)

    def add(self, task: str, card: str) -> tuple[int, bool]:
        """The number, and whether it is new."""
        for (known, version), content in self.versions.items():
            if (known, content) == (task, card):
                return version, False
        self.given[task] += 1
        self.versions[task, self.given[task]] = card
        return self.given[task], True

    def set_alias(self, task: str, alias: str, version: int) -> None:
        """Raises NotFoundError."""
        self._find(task, version)
        steps = self.aliases.setdefault((task, alias), [])
        if not steps or steps[-1] != version:
            steps.append(version)

    def target(self, task: str, alias: str, version: int | None) -> int | None:
        """Where in the steps of an alias a rollback would go."""
        steps = self.aliases.get((task, alias), [])
        for place in reversed(range(len(steps) - 1)):
            step = steps[place]
            if step != steps[-1] and (task, step) in self.versions and version in {None, step}:
                return place
        return None

    def roll_back(self, task: str, alias: str, version: int | None) -> int:
        """The version that it points at then. Raises NotFoundError."""
        place = self.target(task, alias, version)
        if place is None:
            raise NotFoundError("nowhere to go")
        del self.aliases[task, alias][place + 1 :]
        return self.aliases[task, alias][-1]

    def delete_alias(self, task: str, alias: str) -> None:
        """Raises NotFoundError."""
        if self.aliases.pop((task, alias), None) is None:
            raise NotFoundError("no such alias")

    def delete(self, task: str, version: int) -> None:
        """Raises NotFoundError or IncompatibleError."""
        self._find(task, version)
        if (task, version) in self.pins or (task, version) in self.pointed():
            raise IncompatibleError("it is needed")
        self._forget(task, version)

    def delete_task(self, task: str) -> None:
        """Raises NotFoundError or IncompatibleError."""
        mine = [number for number in self.versions if number[0] == task]
        if not mine:
            raise NotFoundError("no such task")
        if any(number in self.pins for number in mine):
            raise IncompatibleError("pinned")
        self.aliases = {alias: steps for alias, steps in self.aliases.items() if alias[0] != task}
        for number in mine:
            self._forget(*number)

    def pin(self, task: str, version: int, reason: str | None) -> None:
        """Raises NotFoundError."""
        self._find(task, version)
        self.pins.pop((task, version), None)
        if reason is not None:
            self.pins[task, version] = reason

    def tag(self, task: str, version: int, key: str, value: str | None) -> None:
        """Raises NotFoundError."""
        self._find(task, version)
        marks = self.tags.setdefault((task, version), {})
        marks.pop(key, None)
        if value is not None:
            marks[key] = value

    def collect(self, keep: int, task: str) -> set[Number]:
        """What goes."""
        gone = set()
        for name in TASKS if not task else [task]:
            mine = sorted(version for known, version in self.versions if known == name)
            for version in mine[: max(0, len(mine) - keep)]:
                number = (name, version)
                if number not in self.pins and number not in self.pointed() | self.within_reach():
                    gone.add(number)
        for number in gone:
            self._forget(*number)
        return gone

    def pointed(self) -> set[Number]:
        """What aliases point at."""
        return {(task, steps[-1]) for (task, _), steps in self.aliases.items()}

    def within_reach(self) -> set[Number]:
        """The last BACK versions that each alias would be rolled back to."""
        reached = set()
        for (task, _), steps in self.aliases.items():
            there = [step for step in reversed(steps[:-1]) if step != steps[-1] and (task, step) in self.versions]
            reached |= {(task, step) for step in list(dict.fromkeys(there))[:BACK]}
        return reached

    def _find(self, task: str, version: int) -> None:
        if (task, version) not in self.versions:
            raise NotFoundError("no such version")

    def _forget(self, task: str, version: int) -> None:
        self.versions.pop((task, version))
        self.tags.pop((task, version), None)


class Machine(RuleBasedStateMachine):
    """Does the same to a registry and to the model; either both refuse for the same reason, or both are alike after."""

    def __init__(self, new_places: Callable[[], Places], shelf: Shelf, model: Callable[[], Model] = Model) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="lensmount-machine-")
        self._places = new_places()
        self._shelf = shelf
        self._model = model()
        self._registry = self._open()

    @initialize()
    def begin(self) -> None:
        """With a history: most of what can be wrong shows only after some."""
        for card in CARDS[:4]:
            self.register("defect", card)
        for pick in range(3):
            self.set_alias("defect", "live", pick)

    @rule(task=tasks, card=cards)
    def register(self, task: str, card: str) -> None:
        record, is_new = add(self._registry, self._shelf, card, task)
        assert (record.id.version, is_new) == self._model.add(task, card)

    @rule(task=tasks, alias=names, pick=picks)
    def set_alias(self, task: str, alias: str, pick: int) -> None:
        version = self._number(task, pick)
        self._both(
            lambda: self._registry.set_alias(task, alias, version), lambda: self._model.set_alias(task, alias, version)
        )

    @rule(task=tasks, alias=names, pick=picks, off=st.integers(1, 3))
    def set_alias_that_is_not_so(self, task: str, alias: str, pick: int, off: int) -> None:
        version = self._number(task, pick)
        now = self._model.aliases.get((task, alias), [0])[-1]
        with pytest.raises((ConflictError, NotFoundError)):
            self._registry.set_alias(task, alias, version, Expected(version=now + off))

    @rule(task=tasks, alias=names, pick=st.none() | picks)
    def roll_back(self, task: str, alias: str, pick: int | None) -> None:
        version = None if pick is None else self._number(task, pick)

        def registry() -> int:
            target, expected = self._registry.rollback_target(task, alias, version)
            return self._registry.roll_back(target, alias, expected).version.version

        self._both(registry, lambda: self._model.roll_back(task, alias, version))

    @rule(task=tasks, alias=names)
    def delete_alias(self, task: str, alias: str) -> None:
        self._both(lambda: self._registry.delete_alias(task, alias), lambda: self._model.delete_alias(task, alias))

    @rule(task=tasks, pick=picks)
    def delete(self, task: str, pick: int) -> None:
        version = self._number(task, pick)
        self._both(lambda: self._registry.delete(task, version), lambda: self._model.delete(task, version))

    @precondition(lambda self: len(self._model.versions) > 7)
    @rule(task=tasks)
    def delete_task(self, task: str) -> None:
        self._both(lambda: self._registry.delete_task(task) and None, lambda: self._model.delete_task(task))

    @rule(task=tasks, pick=picks, reason=st.none() | st.sampled_from(["", "audit"]))
    def pin(self, task: str, pick: int, reason: str | None) -> None:
        version = self._number(task, pick)
        self._both(lambda: self._registry.pin(task, version, reason), lambda: self._model.pin(task, version, reason))

    @rule(task=tasks, pick=picks, key=st.sampled_from("ab"), value=st.none() | st.sampled_from(["", "1", "2"]))
    def tag(self, task: str, pick: int, key: str, value: str | None) -> None:
        version = self._number(task, pick)
        put, drop = ({}, [key]) if value is None else ({key: value}, [])
        self._both(
            lambda: self._registry.tag(task, version, put, drop), lambda: self._model.tag(task, version, key, value)
        )

    @rule(keep=st.integers(0, 4), task=st.sampled_from(["", *TASKS]))
    def collect(self, keep: int, task: str) -> None:
        would = self._registry.collect(keep, task, dry_run=True)
        done = self._registry.collect(keep, task)
        assert would == done
        assert {(each.task, each.version) for each in done.removed} == self._model.collect(keep, task)

    @precondition(lambda self: self._model.versions)
    @rule()
    def open_again(self) -> None:
        self._registry.close()
        self._registry = self._open()

    @invariant()
    def alike(self) -> None:
        records = {(each.id.task, each.id.version): each for each in self._registry.page(1000)}
        assert records.keys() == self._model.versions.keys()
        assert points(self._registry) == {alias: steps[-1] for alias, steps in self._model.aliases.items()}
        assert {number: each.pin_reason for number, each in records.items() if each.pin_reason is not None} == {
            number: reason for number, reason in self._model.pins.items() if number in records
        }
        tags = {number: marks for number, marks in self._model.tags.items() if marks}
        assert {number: each.tags for number, each in records.items() if each.tags} == tags

    @invariant()
    def same_ways_back(self) -> None:
        for (task, alias), steps in self._model.aliases.items():
            for version in [None, *range(1, self._model.given[task] + 1)]:
                place = self._model.target(task, alias, version)
                assert self._way_back(task, alias, version) == (None if place is None else steps[place])

    def teardown(self) -> None:
        try:
            check_whole(self._registry, self._places)
        finally:
            self._registry.close()
            self._folder.cleanup()

    def _number(self, task: str, pick: int) -> int:
        there = sorted(version for known, version in self._model.versions if known == task)
        return there[pick % len(there)] if there and pick < 11 else pick

    def _open(self) -> Registry:
        return Registry(Path(self._folder.name) / "data", self._places)

    def _way_back(self, task: str, alias: str, version: int | None) -> int | None:
        try:
            return self._registry.rollback_target(task, alias, version)[0].version.version
        except NotFoundError:
            return None

    def _both(self, one: Callable[[], object], other: Callable[[], object]) -> None:
        came, expected = _outcome(one), _outcome(other)
        assert type(came) is type(expected)
        if isinstance(expected, int):
            assert came == expected


def _outcome(work: Callable[[], object]) -> object:
    try:
        done = work()
    except LensmountError as error:
        return error
    return done if isinstance(done, int) else None


class Forgetful(Model):
    """A control: numbers are counted by what is there."""

    def add(self, task: str, card: str) -> tuple[int, bool]:
        self.given[task] = max((version for known, version in self.versions if known == task), default=0)
        return super().add(task, card)


class ToAndFro(Model):
    """A control: a rollback is a step of its own, and the next one goes to where it came from."""

    def roll_back(self, task: str, alias: str, version: int | None) -> int:
        place = self.target(task, alias, version)
        if place is None:
            raise NotFoundError("nowhere to go")
        self.aliases[task, alias].append(self.aliases[task, alias][place])
        return self.aliases[task, alias][-1]


class Greedy(Model):
    """A control: what a rollback would find is collected."""

    def within_reach(self) -> set[Number]:
        return set()
