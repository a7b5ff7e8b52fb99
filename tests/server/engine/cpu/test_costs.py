"""The cost table: measured once, kept, and never a choice that can not serve."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch

from factories import random_backbone
from lensmount.errors import IncompatibleError, InvalidInputError, LensmountError, ServerError, UnavailableError
from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.choice import Candidate
from lensmount_server.engine.cpu import costs
from lensmount_server.engine.cpu.costs import GAIN, ROWS, CostTable, cost_table
from lensmount_server.engine.cpu.eager import EagerCompiler
from lensmount_server.engine.cpu.units import Compiler
from lensmount_server.engine.probes import COARSE
from lensmount_server.scheduling import best_batch

# Milliseconds for a row alone and for eight, and the error, of every way that the double knows.
Ways = dict[tuple[str, str], tuple[float, float, float] | LensmountError]
WAYS: Ways = {
    ("openvino", "bf16"): (1.0, 4.0, 0.01),
    ("openvino", "fp32"): (2.0, 8.0, 1e-6),
    ("torch", "bf16"): (3.0, 16.0, 0.01),
    ("torch", "fp32"): (4.0, 24.0, 0.0),
}


class Machine:
    """A machine whose clock and rounding are told: the measuring functions of `costs` on doubles."""

    def __init__(self, backbone: Backbone) -> None:
        self.ways: Ways = dict(WAYS)
        self.measured: list[tuple[str, str]] = []
        self._eager = EagerCompiler(backbone, "fp32")
        self.batch_ms: Callable[[int], float] = float

    def make_compiler(self, backbone: Backbone, name: str, precision: str, cores: int) -> Compiler:
        del backbone, cores
        way = self.ways.get((name, precision), InvalidInputError("no such engine", field="engine", value=name))
        if isinstance(way, LensmountError):
            raise way
        return Named(self._eager, name, precision)

    def candidate(self, backbone: Backbone, compiler: Compiler) -> Candidate:
        del backbone
        way = self.ways[compiler.name, compiler.precision]
        assert not isinstance(way, LensmountError)
        self.measured.append((compiler.name, compiler.precision))
        one, eight, error = way
        return Candidate(
            engine=compiler.name, precision=compiler.precision, one_row_ms=one, eight_rows_ms=eight, error=error
        )

    def time(self, run: Any) -> float:
        return self.batch_ms(run.args[-1])


class Named:
    """Torch under another compiler's name."""

    lanes = 1

    def __init__(self, eager: EagerCompiler, name: str, precision: str) -> None:
        self.name, self.precision = name, precision
        self.compile, self.compile_lora = eager.compile, eager.compile_lora
        self.probes = eager.probes


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("test_resnet")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    return tmp_path / "lensmount" / "costs"


@pytest.fixture
def machine(backbone: Backbone, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(backbone)
    monkeypatch.setattr(costs, "make_compiler", made.make_compiler)
    monkeypatch.setattr(costs, "_candidate", made.candidate)
    monkeypatch.setattr(costs, "_time", made.time)
    return made


def chosen(table: CostTable) -> tuple[str, str]:
    return table.chosen.engine, table.chosen.precision


def test_the_fastest_is_chosen_of_all_that_were_measured(machine: Machine, backbone: Backbone) -> None:
    table = cost_table(backbone, "auto", "auto", 2)
    assert machine.measured == list(WAYS)
    assert chosen(table) == ("openvino", "bf16")
    assert [(c.engine, c.precision) for c in table.candidates] == list(WAYS)
    assert set(table.batch_ms) == set(ROWS)


@pytest.mark.parametrize(
    ("engine", "precision", "wanted"),
    [
        ("torch", "auto", ("torch", "bf16")),
        ("auto", "fp32", ("openvino", "fp32")),
        ("torch", "fp32", ("torch", "fp32")),
    ],
)
def test_what_is_told_is_not_measured_against_others(
    engine: str, precision: str, wanted: tuple[str, str], machine: Machine, backbone: Backbone
) -> None:
    assert chosen(cost_table(backbone, engine, precision, 2)) == wanted
    assert {name for name, _ in machine.measured} <= ({engine} if engine != "auto" else {"torch", "openvino"})
    assert {each for _, each in machine.measured} <= ({precision} if precision != "auto" else {"bf16", "fp32"})


def test_a_row_alone_and_a_row_among_eight_count_alike(machine: Machine, backbone: Backbone) -> None:
    machine.ways["torch", "fp32"] = (0.1, 24.0, 0.0)
    assert chosen(cost_table(backbone, "auto", "auto", 2)) == ("torch", "fp32")


@pytest.mark.parametrize("error", [1.01 * COARSE, float("inf"), float("nan")])
def test_what_is_too_coarse_is_never_chosen(error: float, machine: Machine, backbone: Backbone) -> None:
    machine.ways["openvino", "bf16"] = (1.0, 4.0, error)
    table = cost_table(backbone, "auto", "auto", 2)
    assert chosen(table) == ("openvino", "fp32")
    assert table.candidates[0].too_coarse
    assert table.candidates[0].score == float("inf")
    assert cost_table(backbone, "auto", "auto", 2).model_dump_json() == table.model_dump_json()
    assert len(machine.measured) == 4


@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_when_everything_is_too_coarse_that_is_an_error(
    error: float, machine: Machine, backbone: Backbone, cache: Path
) -> None:
    machine.ways["torch", "bf16"] = (1.0, 4.0, error)
    with pytest.raises(IncompatibleError, match="too far from fp32") as caught:
        cost_table(backbone, "torch", "bf16", 2)
    assert caught.value.field == "precision"
    assert "--precision fp32" in caught.value.fix
    assert not cache.exists()


def test_what_refuses_is_left_out(machine: Machine, backbone: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    machine.ways["openvino", "bf16"] = ServerError("OpenVINO can not compile it")
    machine.ways["openvino", "fp32"] = UnavailableError("OpenVINO is not installed")
    with caplog.at_level(logging.WARNING):
        table = cost_table(backbone, "auto", "auto", 2)
    assert chosen(table) == ("torch", "bf16")
    assert "OpenVINO can not compile it" in caplog.text
    assert "OpenVINO is not installed" in caplog.text


def test_when_all_refuse_their_error_is_raised(machine: Machine, backbone: Backbone, cache: Path) -> None:
    for way in WAYS:
        machine.ways[way] = ServerError("it can not")
    with pytest.raises(ServerError, match="it can not"):
        cost_table(backbone, "auto", "auto", 2)
    with pytest.raises(InvalidInputError, match="no such engine"):
        cost_table(backbone, "tensorrt", "auto", 2)
    assert not cache.exists()


def test_a_table_is_kept_and_read_again(machine: Machine, backbone: Backbone, cache: Path) -> None:
    table = cost_table(backbone, "auto", "auto", 2)
    machine.measured.clear()
    assert cost_table(backbone, "auto", "auto", 2) == table
    assert machine.measured == []
    (file,) = cache.iterdir()
    assert file.name.startswith("test_resnet-")
    assert file.suffix == ".json"


def test_another_choice_number_of_cores_backbone_or_release_has_a_table_of_its_own(
    machine: Machine, backbone: Backbone, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost_table(backbone, "auto", "auto", 2)
    cost_table(backbone, "torch", "auto", 2)
    cost_table(backbone, "auto", "fp32", 2)
    cost_table(backbone, "auto", "auto", 1)
    cost_table(random_backbone("test_resnet", seed=1), "auto", "auto", 2)
    monkeypatch.setattr(costs, "version", lambda package: f"{package} 99")
    cost_table(backbone, "auto", "auto", 2)
    monkeypatch.setattr(costs, "_cpu", lambda: "another")
    cost_table(backbone, "auto", "auto", 2)
    assert len(list(cache.iterdir())) == 7


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"candidates": []}'])
def test_a_damaged_table_is_measured_anew(damage: bytes, machine: Machine, backbone: Backbone, cache: Path) -> None:
    table = cost_table(backbone, "auto", "auto", 2)
    (file,) = cache.iterdir()
    file.write_bytes(damage)
    machine.measured.clear()
    assert cost_table(backbone, "auto", "auto", 2) == table
    assert machine.measured == list(WAYS)
    assert list(cache.iterdir()) == [file]
    assert CostTable.model_validate_json(file.read_bytes()) == table


def test_where_it_can_not_be_kept_that_is_only_logged(
    machine: Machine, backbone: Backbone, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert chosen(cost_table(backbone, "auto", "auto", 2)) == ("openvino", "bf16")
    assert "can not be kept" in caplog.text


def test_batch_sizes_are_those_that_save_something(machine: Machine, backbone: Backbone) -> None:
    cost = {1: 1.0, 2: 2 * (1 - 2 * GAIN), 4: 4 * (1 - 2.5 * GAIN), 8: 8 * 0.5, 16: 16 * 0.49}
    machine.batch_ms = cost.__getitem__
    table = cost_table(backbone, "auto", "auto", 2)
    assert table.buckets == (1, 2, 8)
    assert best_batch(table.batch_ms) == 8


def test_where_a_row_is_cheapest_alone_that_is_the_only_batch_size(machine: Machine, backbone: Backbone) -> None:
    machine.batch_ms = lambda rows: float(rows**2)
    table = cost_table(backbone, "auto", "auto", 2)
    assert (table.buckets, best_batch(table.batch_ms)) == ((1,), 1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[None]:
    """Every run is real, but happens once."""

    def once(run: Callable[[], object]) -> float:
        run()
        return 1.0

    monkeypatch.setattr(costs, "_time", once)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_what_is_really_measured_is_right(quick: None, backbone: Backbone) -> None:
    table = cost_table(backbone, "auto", "auto", 2)
    errors = {(c.engine, c.precision): c.error for c in table.candidates}
    assert errors.keys() == WAYS.keys()
    assert max(errors["torch", "fp32"], errors["openvino", "fp32"]) < 1e-5
    assert all(1e-4 < errors[engine, "bf16"] < COARSE for engine in ("torch", "openvino"))
    assert table.buckets == (1, 2, 4, 8)
    assert best_batch(table.batch_ms) == 16


def test_time_is_the_least_of_the_runs_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.003, 1.0, 1.009, 2.0, 2.002, 3.0, 3.004, 4.0, 4.005])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    runs: list[int] = []
    assert costs._time(lambda: runs.append(1)) == pytest.approx(2.0)
    assert len(runs) == 6


def test_a_slow_run_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 3.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert costs._time(lambda: None) == pytest.approx(3000)
