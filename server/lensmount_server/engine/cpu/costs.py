"""What this machine is good at, measured at the first start and kept: engine, precision, batch sizes.

CPUs differ (one has bfloat16 units, one has not; one runs four rows a core best, another
eight), so nothing of this is written into the code. The table is a small JSON file in the
user's cache folder; another machine, backbone or release of a compiler has another name there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import platformdirs
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from lensmount.errors import IncompatibleError, LensmountError
from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.choice import Candidate
from lensmount_server.engine.cores import cores
from lensmount_server.engine.cpu.compilers import make_compiler
from lensmount_server.engine.cpu.lanes import Lanes
from lensmount_server.engine.cpu.units import Compiler, Options, Unit, Work
from lensmount_server.engine.ranges import whole

log = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8)
ROWS = (1, 2, 4, 8, 16)
REPEATS = 5
# A larger batch size is compiled only where it saves this share of a row's cost.
GAIN = 0.02
ENOUGH_S = 1.0

Timed = Callable[[], object]


class CostTable(BaseModel):
    """What was measured, and what follows from it; `batch_ms` is the whole backbone on so many rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    candidates: tuple[Candidate, ...]
    chosen: Candidate
    buckets: tuple[int, ...]
    batch_ms: dict[int, float]


def cost_table(backbone: Backbone, engine: str, precision: str, cores: int) -> CostTable:
    """The table of this machine for the backbone; measured (some seconds) when there is none yet.

    `engine` and `precision` are "auto" or the one to take. Raises the error of a choice that does not work here.
    """
    path = _path(backbone, engine, precision, cores)
    known = _read(path)
    if known is not None:
        return known
    log.info("measuring what this machine is good at: some seconds, once for each backbone")
    table = _measure(backbone, engine, precision, cores)
    _keep(path, table)
    return table


def _measure(backbone: Backbone, engine: str, precision: str, cores: int) -> CostTable:
    tried = list(_candidates(backbone, engine, precision, cores))
    chosen = min(tried, key=lambda candidate: candidate.score)
    if chosen.too_coarse:
        message, fix = "the features of this backbone are too far from fp32", "serve with --precision fp32"
        raise IncompatibleError(message, field="precision", value=f"{chosen.precision}, {chosen.error:.2g}", fix=fix)
    compiler = make_compiler(backbone, chosen.engine, chosen.precision, cores)
    lanes = Lanes(compiler.lanes)
    unit = compiler.compile(whole(backbone), Options(BUCKETS, wide=True))
    buckets = tuple(_worthwhile(unit, compiler, lanes, backbone))
    batch_ms = {rows: _time(partial(_run, lanes, unit, backbone, rows)) for rows in ROWS}
    lanes.close()
    return CostTable(candidates=tuple(tried), chosen=chosen, buckets=buckets, batch_ms=batch_ms)


def _candidates(backbone: Backbone, engine: str, precision: str, cores: int) -> Iterator[Candidate]:
    engines = ("openvino", "torch") if engine == "auto" else (engine,)
    precisions = ("bf16", "fp32") if precision == "auto" else (precision,)
    refused: LensmountError | None = None
    count = 0
    for name in engines:
        for each in precisions:
            try:
                yield _candidate(backbone, make_compiler(backbone, name, each, cores))
                count += 1
            except LensmountError as error:
                log.warning("%s in %s can not run this backbone: %s", name, each, error)
                refused = error
    if not count and refused is not None:
        raise refused


def _candidate(backbone: Backbone, compiler: Compiler) -> Candidate:
    unit = compiler.compile(whole(backbone), Options((1, 4), wide=True))
    lanes = Lanes(compiler.lanes)
    one, eight = (_time(partial(_run, lanes, unit, backbone, rows)) for rows in (1, 8))
    (features,) = lanes.run([Work(unit, compiler.probes.at(whole(backbone)))])
    lanes.close()
    error = compiler.probes.pooled_error(features)
    return Candidate(
        engine=compiler.name, precision=compiler.precision, one_row_ms=one, eight_rows_ms=eight, error=error
    )


def _worthwhile(unit: Unit, compiler: Compiler, lanes: Lanes, backbone: Backbone) -> Iterator[int]:
    """Batch sizes that are worth compiling for: with all lanes busy, each is cheaper a row than the one before."""
    best = float("inf")
    for bucket in unit.buckets:
        rows = bucket * compiler.lanes
        cost = _time(partial(_run, lanes, unit, backbone, rows)) / rows
        if bucket == 1 or cost <= (1 - GAIN) * best:
            best = min(cost, best)
            yield bucket


def _run(lanes: Lanes, unit: Unit, backbone: Backbone, rows: int) -> None:
    size = (backbone.preprocessing.height, backbone.preprocessing.width)
    lanes.run([Work(unit, torch.zeros((rows, 3, *size), dtype=torch.uint8))])


def _time(run: Timed) -> float:
    """Milliseconds, the least of some runs after one that does not count: what others do to the machine passes."""
    run()
    spent: list[float] = []
    while len(spent) < REPEATS and sum(spent) < ENOUGH_S * 1e3:
        start = time.perf_counter()
        run()
        spent.append((time.perf_counter() - start) * 1e3)
    return min(spent)


def _path(backbone: Backbone, *choice: object) -> Path:
    facts = (_cpu(), cores(), _version("torch"), _version("openvino"), backbone.fingerprint)
    name = hashlib.sha256(repr((*facts, *choice)).encode()).hexdigest()[:24]
    return platformdirs.user_cache_path("lensmount") / "costs" / f"{backbone.name}-{name}.json"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _read(path: Path) -> CostTable | None:
    try:
        return CostTable.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _keep(path: Path, table: CostTable) -> None:
    """Write the table for the next start; a folder that can not be written only costs that start some seconds."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(table.model_dump_json(indent=2))
        partial.replace(path)
    except OSError as error:
        log.warning("the cost table can not be kept: %s", error)
