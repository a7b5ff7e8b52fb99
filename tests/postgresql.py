"""A real PostgreSQL on loopback, in a temporary folder of its own (`tests/install-postgresql` installs what it needs).

It refuses to run as root, so it runs as another user then. Its password has all that a URL must quote.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from sqlalchemy.engine import URL

PASSWORD = "pass@word/with:all %20"  # noqa: S105 - of a server that lives as long as the tests
PATIENCE_S = 60.0
# Its own fsync costs minutes here and proves nothing: the machine itself never fails in these tests.
SETTINGS = {"fsync": "off", "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "60"}


@functools.cache
def programs() -> Path | None:
    """Where its newest programs lie; None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def needs_postgresql() -> None:
    """Skips the test where there is no PostgreSQL."""
    if programs() is None:
        pytest.skip("no PostgreSQL here: run tests/install-postgresql as root")


class PostgreSQL:
    """A server. Stop it, end it at once, start it again on the same port and data."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="lensmount-postgresql-"))
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            user = _user()
            os.chown(self._home, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        secret = self._home / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        arguments = [
            "--username=lensmount",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--no-sync",
            "--encoding=UTF8",
        ]
        self._run("initdb", "--no-locale", *arguments, f"--pgdata={self._home / 'data'}")
        self.port = _free_port()
        self._made = 0
        self.start()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        settings = [f"--{name}={value}" for name, value in {**SETTINGS, "port": self.port}.items()]
        command: list[str | Path] = [self._program("postgres"), "-D", self._home / "data", *settings]
        log = (self._home / "log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._home, **self._as)
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self._process.poll() is None, (self._home / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT: an orderly stop that breaks off what runs; SIGQUIT: at once, to be recovered at the next start."""
        self._process.send_signal(number)
        self._process.wait(PATIENCE_S)

    def close(self) -> None:
        """End it; its data go."""
        with contextlib.suppress(ProcessLookupError):
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self._home)

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        self._made += 1
        name = f"registry_{self._made}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """The URL of a database."""
        parts = URL.create("postgresql", "lensmount", password, "127.0.0.1", self.port, database)
        return parts.render_as_string(hide_password=False)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the owner of all, outside of any transaction."""
        with psycopg.connect(**self._place(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def break_off(self, database: str) -> None:
        """End all connections to a database."""
        whose = f"FROM pg_stat_activity WHERE datname = '{database}'"
        self.execute(f"SELECT pg_terminate_backend(pid) {whose}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answers(self) -> bool:
        try:
            psycopg.connect(**self._place()).close()
        except psycopg.OperationalError:
            return False
        return True

    def _place(self) -> dict[str, Any]:
        place = {"host": "127.0.0.1", "port": self.port, "dbname": "postgres"}
        return {**place, "user": "lensmount", "password": PASSWORD, "connect_timeout": 5}

    def _program(self, name: str) -> Path:
        folder = programs()
        assert folder is not None
        return folder / name

    def _run(self, name: str, *arguments: str) -> None:
        command: list[str | Path] = [self._program(name), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self._home, **self._as)
        assert done.returncode == 0, done.stderr


def _user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError("no user but root here")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
