"""Damaged packages end in a refusal, whatever is damaged; a gate that crashes, hangs or writes beside is caught."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fuzzing import specimens
from fuzzing.case import HEAVY, NAMES, make_case
from fuzzing.controls import DOORS
from fuzzing.runner import Report, fuzz
from fuzzing.specimens import Specimen
from fuzzing.worker import Bench
from lensmount_adapters.admission import STEPS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Specimen]:
    folder = tmp_path_factory.mktemp("specimens")
    specimens.make(folder)
    return specimens.load(folder)


def check(report: Report) -> None:
    """Nothing was found, and everything was looked at."""
    assert report.findings == []
    refusals, fits, steps = Counter[str](), Counter[str](), Counter[str]()
    for (name, kind, step), count in report.counts.items():
        (fits if kind == "fits" else refusals)[name] += count
        if kind != "fits":
            steps[step] += count
    assert set(refusals) >= set(NAMES) - HEAVY
    assert sum(fits.values()) > report.cases / 50
    assert set(steps) >= {"unpack", *STEPS} - {"hash", "backbone"}


def test_a_few_thousand_damaged_packages() -> None:
    check(fuzz(3000, first=10**6))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_thousand_damaged_packages() -> None:
    check(fuzz(100_000))  # other tests have the other cores


def test_a_seed_is_a_case(made: list[Specimen]) -> None:
    for seed in range(50):
        one, again = make_case(seed, made), make_case(seed, made)
        assert (one.mutators, one.data, one.specimen.name) == (again.mutators, again.data, again.specimen.name)
    assert len({make_case(seed, made).data for seed in range(50)}) > 45


def test_without_mutations_every_specimen_fits(made: list[Specimen], tmp_path: Path) -> None:
    bench = Bench(made, tmp_path)
    right = [case for seed in range(2000) if (case := make_case(seed, made)).mutators == ("version",) and case.is_right]
    assert {case.specimen.name for case in right} == {own.name for own in made}
    assert "fits" in {bench.judge(case, DOORS[""])[0].kind for case in right}


# Defects that show in the same process, and how.
@pytest.mark.parametrize(
    ("door", "told"),
    [
        ("follows names", "files beside the package: ['in', 'upload.zip', 'x']"),
        ("fails", "KeyError: 'F64'"),
        ("tells nothing", "no field or no fix"),
    ],
)
def test_a_defect_is_found(door: str, told: str, made: list[Specimen], tmp_path: Path) -> None:
    bench = Bench(made, tmp_path)
    cases = [make_case(seed, made) for seed in range(600)]
    assert [case.seed for case in cases if told in bench.judge(case, DOORS[door])[1]]
    assert not [case.seed for case in cases if bench.judge(case, DOORS[""])[1]]


# A case that takes the process along is named all the same, and those behind it are judged.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("door", "cases", "told"),
    [
        ("dies", 150, "the process ended with -11"),
        ("runs on", 150, "more than 5 s"),
        ("runs on in C", 150, "no answer for 8 s"),
        ("believes sizes", 800, "MiB more"),
    ],
)
def test_a_defect_that_takes_the_process_along_is_found(door: str, cases: int, told: str) -> None:
    report = fuzz(cases, first=300, door=door, silent_s=8.0)
    assert report.findings
    assert all(told in found.text for found in report.findings)
    assert {found.seed for found in report.findings} <= set(range(300, 300 + cases))
