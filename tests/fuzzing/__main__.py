"""`python -m fuzzing`: many cases, or one again by its seed."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from fuzzing import specimens
from fuzzing.case import NAMES
from fuzzing.controls import DOORS
from fuzzing.runner import Report, fuzz
from fuzzing.worker import Bench


def main() -> int:
    """Run; 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzzing", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="judge this one case again, in this process")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--door", default="", choices=list(DOORS), help="a control: a gate with a defect put in")
    args = parser.parse_args()
    if args.seed is not None:
        return replay(args.seed, args.door)
    report = fuzz(args.cases, args.first, args.workers, args.door)
    print_report(report)
    return 1 if report.findings else 0


def replay(seed: int, door: str) -> int:
    """Judge one case, and leave its archive in the current folder."""
    with tempfile.TemporaryDirectory() as folder:
        made, scratch = Path(folder) / "specimens", Path(folder) / "scratch"
        made.mkdir()
        scratch.mkdir()
        specimens.make(made)
        bench = Bench(specimens.load(made), scratch)
        case = bench.make(seed)
        Path(f"case-{seed}.zip").write_bytes(case.data)
        print(f"{case.specimen.name}: {', '.join(case.mutators)} -> case-{seed}.zip")
        verdict, finding = bench.judge(case, DOORS[door])
    print(f"{verdict.kind} at {verdict.step}" if not finding else f"found: {finding}")
    return 1 if finding else 0


def print_report(report: Report) -> None:
    """Rate, verdicts by mutator, steps, findings."""
    print(f"{report.cases:,} cases in {report.seconds:.0f} s, {report.cases / max(report.seconds, 1e-9):,.0f} a second")
    kinds = sorted({kind for _, kind, _ in report.counts})
    print(f"{'mutator':<20}" + "".join(f"{kind:>20}" for kind in kinds))
    for name in NAMES:
        row = Counter(dict.fromkeys(kinds, 0))
        row.update(_sums(report, name))
        print(f"{name:<20}" + "".join(f"{row[kind]:>20,}" for kind in kinds))
    steps: Counter[str] = Counter()
    for (_, kind, step), count in report.counts.items():
        if kind != "fits":
            steps[step] += count
    print("refused at: " + ", ".join(f"{step} {count:,}" for step, count in steps.most_common()))
    for found in report.findings[:50]:
        print(f"FOUND seed {found.seed} ({', '.join(found.mutators)}): {found.text}")
    print(f"{len(report.findings)} findings" + ("; again: python -m fuzzing SEED" if report.findings else ""))


def _sums(report: Report, mutator: str) -> Counter[str]:
    sums: Counter[str] = Counter()
    for (name, kind, _), count in report.counts.items():
        if name == mutator:
            sums[kind] += count
    return sums


if __name__ == "__main__":
    sys.exit(main())
