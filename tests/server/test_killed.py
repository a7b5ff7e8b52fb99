"""kill -9 of a whole server that registers and promotes: it starts again with all that it acknowledged, and answers."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from factories import pictures
from ledger import Told, check_directory
from lensmount import Client
from lensmount.errors import IncompatibleError, NotFoundError, UnavailableError
from processes import serving
from serving import CLOSE, PATIENCE_S, Kit

SHOT = pictures(1, seed=14)[0]
ROUNDS = 4


@dataclass
class Customer:
    """Registers, promotes, rolls back and deletes until the server is gone; knows what was acknowledged."""

    kit: Kit
    folder: Path
    draw: random.Random
    registered: dict[int, str] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    live: int = 0
    begun: int = 0
    parent: dict[int, int] = field(default_factory=dict)

    def work(self, client: Client) -> None:
        """Until the server is gone."""
        with contextlib.suppress(UnavailableError):
            while True:
                with contextlib.suppress(NotFoundError, IncompatibleError):
                    self._turn(client)

    def _turn(self, client: Client) -> None:
        self.begun += 1
        which = self.draw.randrange(3)
        package = Path(shutil.copytree(self.kit.defect[which].folder, self.folder / str(self.begun)))
        (package / "README.md").write_text(f"# {self.begun}\n")
        done = client.register(package)
        self.registered[done.adapter.version] = done.adapter.content_hash
        self.parent[done.adapter.version] = which
        self.live = client.set_alias("defect", done.adapter.version).version
        if self.draw.random() < 0.3 and len(self.registered) > 2:
            self.live = client.rollback("defect").version
        free = self.registered.keys() - self.deleted - {self.live}
        if self.draw.random() < 0.3 and free:
            client.delete_adapter("defect", min(free))
            self.deleted.add(min(free))


def check(customer: Customer, told: Told) -> None:
    """All that was acknowledged is there; of what was under way, one thing at most."""
    there = {version: content for (_, version), content in told.versions.items()}
    expected = {version: each for version, each in customer.registered.items() if version not in customer.deleted}
    assert len(expected.items() - there.items()) <= 1  # one that was being deleted
    assert len(there.keys() - expected.keys()) <= 1  # one that was being registered
    assert told.ever >= {("defect", version) for version in customer.registered}


@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again_has_all_it_acknowledged(kit: Kit, tmp_path: Path) -> None:
    draw = random.Random(3)
    customer = Customer(kit, tmp_path / "packages", draw)
    for _ in range(ROUNDS):
        with serving(kit, tmp_path / "data") as process, Client(process.address, timeout=PATIENCE_S) as client:
            before = len(customer.registered)
            worker = threading.Thread(target=customer.work, args=(client,))
            worker.start()
            while len(customer.registered) == before and worker.is_alive():
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 1.5))
            status, log = process.stop(signal.SIGKILL)
            worker.join(PATIENCE_S)
        assert status == -signal.SIGKILL
        assert "Traceback" not in log
        told = check_directory(tmp_path / "data")
        check(customer, told)
        live = told.aliases["defect", "live"]
        customer.registered |= {version: content for (_, version), content in told.versions.items()}
        customer.deleted = {version for version in customer.registered if ("defect", version) not in told.versions}
        with serving(kit, tmp_path / "data") as process, Client(process.address, timeout=PATIENCE_S) as client:
            (result,) = client.infer(SHOT, "defect")
            assert result.version == live
            if live in customer.parent:
                scores = kit.defect[customer.parent[live]].scores(SHOT)
                assert [each.score for each in result.scores] == pytest.approx(scores, abs=CLOSE)
            assert {adapter.version for adapter in client.adapters()} == {version for _, version in told.versions}
            process.stop(signal.SIGTERM)
    assert len(customer.registered) > ROUNDS
