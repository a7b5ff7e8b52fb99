"""A process that judges cases under limits of memory and time; it says what it found, one JSON line each."""

from __future__ import annotations

import argparse
import json
import resource
import signal
import struct
import tempfile
import time
from collections import Counter
from mmap import mmap
from pathlib import Path

from fuzzing.case import Case, make_case
from fuzzing.controls import DOORS
from fuzzing.judging import Door, Verdict, judge
from fuzzing.specimens import Specimen, load
from lensmount_server.engine.runtime import Engine

# A case that takes longer than this is a finding; what does not even end then is killed by `runner`.
MOST_S = 5.0
# Beyond what the process holds when it begins: a package may have 64 MiB of pictures, and a copy of them.
MOST_MIB = 256
ADDRESSES_MIB = 1024

Counts = Counter[tuple[str, str, str]]


class Overdue(BaseException):
    """The alarm of a case; no handler of the gate may take it for an error of its own."""


def main() -> None:
    """Judge the cases first, first + step, …"""
    parser = argparse.ArgumentParser()
    for name in ("--first", "--count", "--step"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--specimens", "--scratch", "--heart"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--door", default="", choices=list(DOORS))
    args = parser.parse_args()
    with args.heart.open("r+b") as file, mmap(file.fileno(), 16) as heart:
        counts = work(range(args.first, args.first + args.count * args.step, args.step), args, heart)
    print(json.dumps({"counts": [[*key, count] for key, count in counts.items()]}), flush=True)


def work(seeds: range, args: argparse.Namespace, heart: mmap) -> Counts:
    """Judge these cases; counts by mutator, kind and step."""
    bench = Bench(load(args.specimens), args.scratch)
    for seed in range(-20, 0):  # imports, pools and caches fill
        bench.judge(bench.make(seed), DOORS[""])
    limit = _virtual_bytes() + (ADDRESSES_MIB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, _overdue)
    counts: Counts = Counter()
    for seed in seeds:
        heart[:] = struct.pack("<qd", seed, time.time())
        case = bench.make(seed)
        verdict, finding = bench.watched(case, DOORS[args.door])
        if finding:
            told = {"seed": seed, "mutators": case.mutators, "finding": finding}
            print(json.dumps(told), flush=True)
        for name in case.mutators:
            counts[name, verdict.kind, verdict.step] += 1
    return counts


class Bench:
    """Specimens, an engine for each backbone, and a folder in memory."""

    def __init__(self, specimens: list[Specimen], scratch: Path) -> None:
        self._specimens = specimens
        self._scratch = scratch
        self._engines = {own.backbone.name: Engine(own.backbone) for own in specimens}

    def make(self, seed: int) -> Case:
        """The case of a seed."""
        return make_case(seed, self._specimens)

    def watched(self, case: Case, door: Door) -> tuple[Verdict, str]:
        """As `judge`; a case that takes too long or too much memory is a finding too."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: see proc(5)
        before = _mib("VmRSS:")
        signal.setitimer(signal.ITIMER_REAL, MOST_S)
        verdict, finding = self.judge(case, door)
        signal.setitimer(signal.ITIMER_REAL, 0)
        more = _mib("VmHWM:") - before
        return verdict, finding or (f"{more:.0f} MiB more" if more > MOST_MIB else "")

    def judge(self, case: Case, door: Door) -> tuple[Verdict, str]:
        """The verdict of a case, and what is wrong with that: "" where nothing is."""
        try:
            with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
                return judge(case, Path(folder), self._engines, door), ""
        except Overdue:
            return Verdict("hang", ""), f"more than {MOST_S:g} s"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            return Verdict("crash", ""), f"{type(error).__name__}: {error}"[:300]


def _overdue(*_: object) -> None:
    raise Overdue


def _mib(line: str) -> float:
    """A line of this process's status, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(line)[2].split(maxsplit=1)[0]) / 1024


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
