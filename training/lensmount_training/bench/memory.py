"""How far a piece of work makes the memory of a process rise, measured in a new one each time (Linux, proc(5))."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from lensmount.errors import UnavailableError

MIB = 1 << 20
_PROCESS = Path("/proc/self")
# Written to clear_refs it makes the present size the peak.
_RESET_PEAK = "5"

Work = Callable[[], object]


def peak_mib(prepare: Callable[[], Work]) -> float:
    """The peak of resident memory while the work that `prepare` gives is done, above what was there before it, in MiB.

    `prepare` is pickled. Raises UnavailableError where the system does not say.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_peak, prepare).result()


def _peak(prepare: Callable[[], Work]) -> float:
    work = prepare()
    gc.collect()
    try:
        # What was freed while loading must not be there for the work to use.
        ctypes.CDLL(None).malloc_trim(0)
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    except (OSError, AttributeError) as error:
        fix = "leave out lora_step, or run it on Linux"
        raise UnavailableError(
            "peak memory can not be measured here", field="cases", value="lora_step", fix=fix
        ) from error
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / MIB


def _resident(name: str) -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
