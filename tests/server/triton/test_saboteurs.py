"""A Triton that answers wrongly: whatever it sends, it is an error and never an answer.

The hosted model does here what the file `mode` beside it says. One harm can not be seen in any reply: other weights
under the right name. That one the oracle of the other tests must see.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensmount.errors import IncompatibleError, LensmountError, ServerError, UnavailableError
from lensmount_server.engine.runtime import Engine
from serving import Kit
from triton_server import TritonServer, needs_triton
from tritons import asking, everything, jobs_of, model_of, right

pytestmark = pytest.mark.triton

MODEL = """
import json
import pathlib
import time
from dataclasses import replace

import torch
import triton_python_backend_utils as backend
from lensmount_server.triton.hosted import Hosted

MODE = pathlib.Path(__file__).with_name("mode")


class Saboteur(Hosted):
    def __init__(self, args, backend):
        super().__init__(args, backend)
        find = self.host.shelf.find
        self.host.shelf.find = lambda wanted: self._exchanged(find(wanted))

    def _outputs(self, answer):
        mode = MODE.read_text()
        if answer.logits is None:
            if mode == "old":
                told = json.loads(answer.reply)
                answer = replace(answer, reply=json.dumps({**told, "protocol": 0}).encode())
            return super()._outputs(answer)
        nothing = torch.zeros(0)
        match mode:
            case "empty logits":
                answer = replace(answer, logits=nothing)
            case "empty":
                answer = replace(answer, logits=nothing, hashes=torch.zeros(0, 32, dtype=torch.uint8))
            case "truncated":
                answer = replace(answer, logits=answer.logits[:-1].clone())
            case "no numbers":
                answer = replace(answer, logits=answer.logits / 0)
            case "reply alone":
                answer = replace(answer, logits=None, hashes=None)
            case "no reply":
                return super()._outputs(answer)[1:]
            case "another id":
                told = json.loads(answer.reply)
                answer = replace(answer, reply=json.dumps({**told, "id": told["id"] + 1}).encode())
            case "slow":
                time.sleep(20)
        return super()._outputs(answer)

    def _exchanged(self, found):
        mode, hashes = MODE.read_text(), list(found)
        if mode not in ("exchanged", "lying") or len(hashes) < 2:
            return found
        first, second = found[hashes[0]], found[hashes[1]]
        if mode == "lying":
            return {**found, hashes[0]: replace(first, head=second.head)}
        return {**found, hashes[0]: second, hashes[1]: first}


class TritonPythonModel:
    def initialize(self, args):
        self._hosted = Saboteur(args, backend)

    def execute(self, requests):
        return self._hosted.execute(requests)

    def finalize(self):
        self._hosted.close()
"""


class Saboteur(TritonServer):
    """A Triton whose model can be told what to do wrong."""

    @property
    def mode(self) -> Path:
        return self.repository / "lensmount" / "1" / "mode"


@pytest.fixture(scope="module")
def started(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saboteur]:
    needs_triton()
    folder = tmp_path_factory.mktemp("saboteur")
    repository = model_of(kit, folder / "models", MODEL)
    (repository / "lensmount" / "1" / "mode").write_text("honest")
    with Saboteur(repository, folder) as server:
        yield server


@pytest.fixture
def saboteur(started: Saboteur) -> Saboteur:
    started.mode.write_text("honest")
    return started


@pytest.fixture
def engine(kit: Kit, saboteur: Saboteur) -> Iterator[Engine]:
    with asking(kit, saboteur) as engine:
        yield engine


WRONG = ["empty logits", "empty", "truncated", "no numbers", "reply alone", "no reply", "another id", "exchanged"]


@pytest.mark.parametrize("mode", WRONG)
def test_a_wrong_reply_is_an_error(kit: Kit, saboteur: Saboteur, engine: Engine, mode: str) -> None:
    jobs = jobs_of([[kit.defect[0].adapter, kit.defect[1].adapter]] * 3)
    assert right(kit, jobs, engine.run(jobs))
    saboteur.mode.write_text(mode)
    with pytest.raises(LensmountError) as caught:
        engine.run(jobs)
    assert isinstance(caught.value, ServerError | UnavailableError)
    assert (caught.value.field, caught.value.value) == ("triton", saboteur.url)
    saboteur.mode.write_text("honest")
    assert right(kit, jobs, engine.run(jobs))


def test_the_oracle_sees_other_weights_under_the_right_name(kit: Kit, saboteur: Saboteur, engine: Engine) -> None:
    jobs = jobs_of([[kit.defect[0].adapter, kit.defect[1].adapter]] * 3)
    saboteur.mode.write_text("lying")
    assert not right(kit, jobs, engine.run(jobs))


def test_an_honest_one_answers_for_it(kit: Kit, saboteur: Saboteur, triton: TritonServer) -> None:
    with asking(kit, triton, saboteur) as engine:
        jobs = everything(kit)
        assert right(kit, jobs, engine.run(jobs))
        saboteur.mode.write_text("exchanged")
        for _ in range(5):
            assert right(kit, jobs, engine.run(jobs))


def test_an_older_protocol_is_refused(kit: Kit, saboteur: Saboteur) -> None:
    saboteur.mode.write_text("old")
    with pytest.raises(IncompatibleError, match="protocol 0"), asking(kit, saboteur):
        pass


def test_a_slow_one_is_given_up_for_another(kit: Kit, saboteur: Saboteur, triton: TritonServer) -> None:
    with asking(kit, triton, saboteur) as engine:
        wanted = [[version.adapter for version in kit.versions]] * 8
        for _ in range(2):
            assert right(kit, jobs_of(wanted), engine.run(jobs_of(wanted)))
        saboteur.mode.write_text("slow")
        jobs = jobs_of(wanted, until_s=time.perf_counter() + 15)
        assert right(kit, jobs, engine.run(jobs))
