"""Workers side by side, watched: one that dies or does not answer is a finding, and its next cases go on without it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from children import with_tests
from fuzzing import specimens

# A worker's own alarm is earlier; this is for code that does not hear it.
SILENT_S = 20.0
START_S = 120.0
# Enough to know that something is wrong.
MAX_FINDINGS = 100


@dataclass(frozen=True)
class Finding:
    """A case that is neither a package that fits nor a refusal."""

    seed: int
    mutators: tuple[str, ...]
    text: str


@dataclass
class Report:
    """Findings, and verdicts by (mutator, kind, step)."""

    cases: int
    silent_s: float
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)


@dataclass
class _Share:
    """What one worker has to judge: `left` cases from `first` on, each `step` further."""

    first: int
    left: int
    step: int


def fuzz(cases: int, first: int = 0, workers: int = 1, door: str = "", silent_s: float = SILENT_S) -> Report:
    """Judge the cases of the seeds `first` to `first + cases - 1`, through the gate or a control of that name.

    A worker that has one case for longer than `silent_s` is killed.
    """
    report = Report(cases, silent_s)
    with _memory_folder() as folder:
        (folder / "specimens").mkdir()
        specimens.make(folder / "specimens")
        start = time.monotonic()
        shares = [_Share(first + index, len(range(index, cases, workers)), workers) for index in range(workers)]
        threads = [
            threading.Thread(target=_work_off, args=(share, folder, str(index), door, report))
            for index, share in enumerate(shares)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        report.seconds = time.monotonic() - start
    return report


def _work_off(share: _Share, folder: Path, name: str, door: str, report: Report) -> None:
    while share.left > 0 and len(report.findings) < MAX_FINDINGS:
        died_at = _run_worker(share, folder, name, door, report)
        if died_at is None:
            return
        share.left -= (died_at - share.first) // share.step + 1
        share.first = died_at + share.step


def _run_worker(share: _Share, folder: Path, name: str, door: str, report: Report) -> int | None:
    """One process until it is done (None) or gone (the seed that it had)."""
    heart = folder / f"heart.{name}"
    heart.write_bytes(struct.pack("<qd", share.first, time.time() + START_S))
    scratch = folder / f"scratch.{name}"
    scratch.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "fuzzing.worker", "--first", str(share.first), "--count", str(share.left),
        "--step", str(share.step), "--specimens", str(folder / "specimens"), "--scratch", str(scratch),
        "--heart", str(heart), "--door", door,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=with_tests()) as process:
        reader = threading.Thread(target=_read, args=(process, report))
        reader.start()
        silent = _wait(process, heart, report.silent_s)
        reader.join()
    if process.returncode == 0:
        return None
    (seed, _) = struct.unpack("<qd", heart.read_bytes())
    text = f"no answer for {report.silent_s:g} s" if silent else f"the process ended with {process.returncode}"
    report.findings.append(Finding(seed, (), text))
    return int(seed)


def _wait(process: subprocess.Popen[str], heart: Path, silent_s: float) -> bool:
    """Wait for its end; True if it had to be killed."""
    while process.poll() is None:
        (_, beat) = struct.unpack("<qd", heart.read_bytes())
        if time.time() - beat > silent_s:
            process.kill()
            return True
        time.sleep(0.05)
    return False


def _read(process: subprocess.Popen[str], report: Report) -> None:
    for line in process.stdout or ():
        told = json.loads(line)
        if "seed" in told:
            report.findings.append(Finding(told["seed"], tuple(told["mutators"]), told["finding"]))
        else:
            report.counts.update({(mutator, kind, step): count for mutator, kind, step, count in told["counts"]})


@contextmanager
def _memory_folder() -> Iterator[Path]:
    """A folder in memory where there is one: a disk would be what is measured."""
    shm = Path("/dev/shm")  # noqa: S108 - a folder of its own is made below it
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None, prefix="fuzzing.") as folder:
        yield Path(folder)
