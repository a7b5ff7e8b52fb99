"""Processes that work on a registry and are killed: at a step that is counted, or at any moment.

As a script it is a server that has loaded everything and forks a child for each request, a
line of JSON; imported, it offers `Crashes`, which starts the script. A *step* is whatever a
child does that a crash could come before or after: a file opened, made, renamed, removed or
synced, a statement of SQL, the begin and end of a transaction.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Engine, event

from lensmount.errors import IncompatibleError, NotFoundError
from lensmount_server.registry import Registry, database, journal, packages, removing
from registries import Shelf, add

FILES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.utime", "fcntl.flock")
AUDITED = (*FILES, "shutil.rmtree", "shutil.copytree", "shutil.copyfile", "sqlite3.connect")
STATEMENTS = ("before_cursor_execute", "after_cursor_execute", "begin", "commit", "rollback")
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Job:
    """What a child does in a data directory: named work one after the other, with a planted defect or none.

    It is killed at step `kill_at` (0: never), and after `kill_after_s` whatever it does then (0: never).
    """

    directory: str
    shelf: str
    work: tuple[str, ...]
    kill_at: int = 0
    kill_after_s: float = 0.0
    defect: str = ""


@dataclass(frozen=True)
class End:
    """How a child ended: with 0, or by a signal (negative); its steps; the journal's last number when work was done."""

    status: int
    steps: tuple[str, ...]
    acknowledged: int


class Crashes:
    """The server that forks."""

    def __enter__(self) -> Self:
        command = [sys.executable, __file__]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait(PATIENCE_S)
        assert self._server.stdout
        self._server.stdout.close()

    def run(self, job: Job) -> End:
        """Have a job done, or begun."""
        assert self._server.stdin
        assert self._server.stdout
        print(json.dumps(asdict(job)), file=self._server.stdin, flush=True)
        answer = json.loads(self._server.stdout.readline())
        return End(answer["status"], tuple(answer["steps"]), answer["acknowledged"])


def work_on(registry: Registry, shelf: Shelf, work: str) -> None:
    """One piece of work: `register CARD`, `promote VERSION`, `back`, `unset`, `delete VERSION`, `collect KEEP`, …"""
    name, _, what = work.partition(" ")
    if name == "register":
        add(registry, shelf, what)
    elif name == "promote":
        registry.set_alias("defect", "live", int(what))
    elif name == "back":
        target, expected = registry.rollback_target("defect", "live")
        registry.roll_back(target, "live", expected)
    elif name == "unset":
        registry.delete_alias("defect", "live")
    elif name == "delete":
        registry.delete("defect", int(what))
    elif name == "delete-task":
        registry.delete_task("defect")
    elif name == "collect":
        registry.collect(int(what))
    elif name == "tag":
        registry.tag("defect", int(what), {"line": "7"}, ())
    elif name == "pin":
        registry.pin("defect", int(what), "for the audit")
    else:
        assert name == "open"


def _row_before_package(registry: Registry) -> None:
    """A defect: a version has its row before its package is safe."""
    stores = registry._packages

    @contextlib.contextmanager
    def storing(content: str, folder: Path) -> Iterator[str]:
        kept = stores._store
        stores._store = _Nothing()  # type: ignore[assignment]
        try:
            with packages.Packages.storing(stores, content, folder) as key:
                yield key
        finally:
            stores._store = kept
        kept.put(key, folder)

    stores.storing = storing  # type: ignore[method-assign]


class _Nothing:
    def put(self, key: str, folder: Path) -> None:
        """Keep nothing."""

    def remove(self, key: str) -> None:
        """There is nothing."""


def _package_before_row(registry: Registry) -> None:
    """A defect: a package is removed before its row says that the version is gone."""
    remove_version = removing.remove_version

    def remove(connection: Any, record: Any, *others: Any) -> None:
        shutil.rmtree(registry.folder(record.id))
        remove_version(connection, record, *others)

    removing.remove_version = remove  # type: ignore[assignment]


def _number_by_itself(registry: Registry) -> None:
    """A defect: the journal's next number is taken in a transaction of its own."""
    del registry
    next_seq = database.next_seq

    def take(connection: Any) -> int:
        seq = next_seq(connection)
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return seq

    journal.next_seq = take  # type: ignore[attr-defined]


DEFECTS: dict[str, Callable[[Registry], None]] = {
    "": lambda _: None,
    "row before package": _row_before_package,
    "package before row": _package_before_row,
    "number in a transaction of its own": _number_by_itself,
}


class Steps:
    """Counts steps, and kills this process at one of them."""

    def __init__(self, job: Job) -> None:
        self.names: list[str] = []
        self._job = job

    def watch(self) -> None:
        """From now on."""
        sys.addaudithook(self._audited)
        for name in STATEMENTS:
            event.listen(Engine, name, self._step_of(name))
        fsync = os.fsync

        def counted(descriptor: int) -> None:
            self.step("before fsync")
            fsync(descriptor)
            self.step("after fsync")

        os.fsync = counted  # type: ignore[assignment]

    def step(self, name: str) -> None:
        """One more; the last, it may be."""
        self.names.append(name)
        if len(self.names) == self._job.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _audited(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name in AUDITED and (name == "fcntl.flock" or str(arguments[0]).startswith(self._job.directory)):
            self.step(name)

    def _step_of(self, name: str) -> Callable[..., None]:
        def step(*_: Any) -> None:
            self.step(name)

        return step


def _child(job: Job, tell: int) -> None:
    steps = Steps(job)
    steps.watch()
    registry = Registry(Path(job.directory))
    DEFECTS[job.defect](registry)
    for work in job.work:
        with contextlib.suppress(NotFoundError, IncompatibleError):
            work_on(registry, Shelf(Path(job.shelf)), work)
        os.write(tell, f"{registry.pointed()[1]}\n".encode())
    registry.close()
    os.write(tell, json.dumps(steps.names).encode() + b"\n")


def _serve() -> None:
    gc.disable()
    gc.freeze()  # a child that collected garbage would copy all that was loaded
    for line in sys.stdin:
        given = json.loads(line)
        job = Job(**{**given, "work": tuple(given["work"])})
        read, write = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                _child(job, write)
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        if job.kill_after_s:
            time.sleep(job.kill_after_s)
            os.kill(child, signal.SIGKILL)
        print(json.dumps(_end(child, read)), flush=True)


def _end(child: int, read: int) -> dict[str, Any]:
    with os.fdopen(read) as told:
        lines = told.read().splitlines()
    _, status = os.waitpid(child, 0)
    steps = json.loads(lines.pop()) if lines and lines[-1].startswith("[") else []
    acknowledged = int(lines[-1]) if lines else 0
    return {"status": os.waitstatus_to_exitcode(status), "steps": steps, "acknowledged": acknowledged}


if __name__ == "__main__":
    _serve()
