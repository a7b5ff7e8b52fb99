"""The packages of versions, from before their rows are there until after they are gone.

What is done to a package is written down beforehand, as a row of `blobs`: *writing* while it
is stored, *kept* once a version has it, *dropping* when none has it any more. Whatever a crash
leaves half-way is found by that row and removed by the next sweep.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, delete, select, update

from lensmount.errors import NotFoundError, UnavailableError
from lensmount_adapters.package import content_hash
from lensmount_server.registry.blobs import BlobStore
from lensmount_server.registry.database import Database
from lensmount_server.registry.records import Record, batched
from lensmount_server.registry.tables import blobs

log = logging.getLogger(__name__)

WRITING, KEPT, DROPPING = "writing", "kept", "dropping"


class Packages:
    """Packages in a blob store, under the keys that the database knows. For any thread."""

    def __init__(self, database: Database, store: BlobStore, server: str) -> None:
        self._database = database
        self._store = store
        self._server = server

    @contextmanager
    def storing(self, content: str, folder: Path) -> Iterator[str]:
        """Store a folder of this content under a key, which some row must `claim`; taken back if the block fails."""
        key = f"{content}-{secrets.token_hex(4)}"
        with self._database.writing() as connection:
            row = {"key": key, "state": WRITING, "server": self._server, "time_ns": time.time_ns()}
            connection.execute(blobs.insert(), row)
        try:
            self._store.put(key, folder)
            yield key
        except BaseException:
            self._take_back(key)
            raise

    def folder(self, key: str, *, anew: bool = False) -> Path:
        """A local folder with a version's package; `anew`: not a copy from before.

        Raises NotFoundError or UnavailableError.
        """
        return self._store.get(key, anew=anew)

    def intact(self, record: Record) -> bool:
        """Whether what is stored is what was registered. Raises UnavailableError."""
        try:
            return content_hash(self.folder(record.blob, anew=True)) == record.id.content_hash
        except (OSError, NotFoundError):
            return False

    def abandon(self, connection: Connection, living: Collection[str]) -> None:
        """Give up what this server, or one that is not among the `living`, was storing when it ended.

        For the transaction that found out who is: a server that starts now says so before it stores anything.
        """
        lost = (blobs.c.server == self._server) | blobs.c.server.not_in(living)
        connection.execute(update(blobs).where(blobs.c.state == WRITING, lost).values(state=DROPPING))

    def sweep(self) -> None:
        """Remove what no row needs. What can not be removed now stays written down, for the next sweep."""
        try:
            with self._database.reading() as connection:
                keys = list(connection.execute(select(blobs.c.key).where(blobs.c.state == DROPPING)).scalars())
            for some in batched(keys):
                removed = [key for key in some if self._remove(key)]
                with self._database.writing() as connection:
                    connection.execute(delete(blobs).where(blobs.c.key.in_(removed), blobs.c.state == DROPPING))
        except UnavailableError as error:
            log.warning("packages that nobody needs are still there: %s", error)

    def _remove(self, key: str) -> bool:
        try:
            self._store.remove(key)
        except UnavailableError as error:
            log.warning("a package that nobody needs is still there: %s", error)
            return False
        return True

    def _take_back(self, key: str) -> None:
        """Let a package go that no version has; where that can not be written down now, the next start does it."""
        with suppress(UnavailableError):
            with self._database.writing() as connection:
                state = connection.execute(select(blobs.c.state).where(blobs.c.key == key)).scalar()
                if state is None:  # swept by a server that took this one for dead, and put there since
                    row = {"key": key, "state": DROPPING, "server": self._server, "time_ns": time.time_ns()}
                    connection.execute(blobs.insert(), row)
                elif state == WRITING:
                    drop(connection, key)
            self.sweep()


def claim(connection: Connection, key: str) -> None:
    """Note that a version has this package now. Raises UnavailableError when it was swept meanwhile."""
    mine = update(blobs).where(blobs.c.key == key, blobs.c.state == WRITING)
    if connection.execute(mine.values(state=KEPT)).rowcount != 1:
        message = "storing it took so long that another server took this one for dead"
        raise UnavailableError(message, field="packages", value=key, fix="look at the clocks of both, and call again")


def drop(connection: Connection, key: str) -> None:
    """Note that no version has this package any more: the next sweep removes it."""
    connection.execute(update(blobs).where(blobs.c.key == key).values(state=DROPPING))
