"""Gates with a defect put in: a fuzzer that does not find each of them finds nothing."""

from __future__ import annotations

import os
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

from fuzzing.judging import Door
from lensmount.errors import InvalidInputError
from lensmount_adapters.admission import Admitted, Passed, admit
from lensmount_adapters.archive import unpack
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.headers import FLOATS, WHOLE, read_entries
from lensmount_adapters.package import TENSOR_FILE

Admit = Callable[[Path, Backbone, Passed], Admitted]


def follows_names(archive: Path, folder: Path) -> None:
    """Writes where a name leads, one folder up."""
    if any("/" in entry.filename for entry in _entries(archive)):
        (folder.parent / "x").write_bytes(b"")
    unpack(archive, folder)


def believes_sizes(archive: Path, folder: Path) -> None:
    """Takes the memory that an entry announces."""
    announced = max((entry.file_size for entry in _entries(archive)), default=0)
    bytes(bytearray(b"x") * min(announced, 400 << 20))
    unpack(archive, folder)


def _entries(archive: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(archive) as file:
            return file.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return []


def at_odd_types(then: Callable[[], object]) -> Admit:
    """Does something at a type that no package has."""

    def odd(folder: Path, backbone: Backbone, passed: Passed) -> Admitted:
        path = folder / TENSOR_FILE
        entries = read_entries(path).values() if path.is_file() else ()
        if any(entry.dtype not in (*FLOATS, *WHOLE) for entry in entries):
            then()
        return admit(folder, backbone, passed)

    return odd


def fail() -> None:
    """An error that is not ours."""
    raise KeyError("F64")


def tell_nothing() -> None:
    """An error of ours that does not help."""
    raise InvalidInputError("wrong")


def die() -> None:
    """What a defect in C code does."""
    os.kill(os.getpid(), signal.SIGSEGV)


def run_on() -> None:
    """A loop without end, in Python."""
    while True:
        pass


def run_on_in_c() -> None:
    """A loop without end that hears no alarm."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    run_on()


DOORS = {
    "": Door(),
    "follows names": Door(unpack=follows_names),
    "believes sizes": Door(unpack=believes_sizes),
    "fails": Door(admit=at_odd_types(fail)),
    "tells nothing": Door(admit=at_odd_types(tell_nothing)),
    "dies": Door(admit=at_odd_types(die)),
    "runs on": Door(admit=at_odd_types(run_on)),
    "runs on in C": Door(admit=at_odd_types(run_on_in_c)),
}
