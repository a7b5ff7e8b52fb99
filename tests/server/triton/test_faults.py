"""Tritons that die, hang, start anew: rows are answered elsewhere, or fail with the cause; none is lost or wrong."""

from __future__ import annotations

import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn, Self

import pytest
from torch import Tensor
from tritonclient.grpc import service_pb2

from lensmount.errors import DeadlineError, LensmountError, UnavailableError
from lensmount_server.engine.plan import Pass
from lensmount_server.engine.runtime import Engine
from lensmount_server.triton.executor import LEAST_S
from lensmount_server.triton.fleet import PATIENCE_S
from lensmount_server.triton.instance import SilentError
from serving import Kit
from triton_server import TritonServer
from tritons import asking, everything, executor_of, fleet_of, jobs_of, right, until_ready

pytestmark = pytest.mark.triton


class Stream:
    """Batches one after the other in a thread of its own, as a server's engine thread runs them."""

    def __init__(self, kit: Kit, engine: Engine) -> None:
        self._kit, self._engine = kit, engine
        self._enough = threading.Event()
        self.rounds = 0
        self.wrong = 0
        self.errors: list[LensmountError] = []

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1)
        self._running = self._thread.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._running.result(60)
        self._thread.shutdown()

    def _run(self) -> None:
        while not self._enough.is_set():
            jobs = everything(self._kit, 4)
            try:
                self.wrong += not right(self._kit, jobs, self._engine.run(jobs))
            except LensmountError as error:
                self.errors.append(error)
                time.sleep(0.05)
            self.rounds += 1

    def more(self, rounds: int) -> None:
        """Wait for so many more batches."""
        wanted = self.rounds + rounds
        for _ in range(3000):
            if self.rounds >= wanted or self._running.done():
                break
            time.sleep(0.02)
        assert self.rounds >= wanted


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_one_of_two_fails_and_no_row_is_lost(kit: Kit, both: list[TritonServer], fault: str) -> None:
    with asking(kit, *both) as engine:
        with Stream(kit, engine) as stream:
            stream.more(3)
            getattr(both[1], fault)()
            until_ready(engine, 1)
            stream.more(3)
            both[1].revive()
            until_ready(engine, 2)
            stream.more(3)
        assert stream.errors == []
        assert stream.wrong == 0
        assert all(member.frame_s > 0 for member in fleet_of(engine).members)


def test_the_only_one_starts_anew_and_has_all_adapters(kit: Kit, triton: TritonServer) -> None:
    with asking(kit, triton) as engine:
        (member,) = fleet_of(engine).members
        before = member.instance.boot
        with Stream(kit, engine) as stream:
            stream.more(3)
            triton.kill()
            until_ready(engine, 0)
            triton.start()
            until_ready(engine, 1)
            stream.more(3)
        assert stream.wrong == 0
        assert all(isinstance(error, UnavailableError) for error in stream.errors)
        assert all(error.field == "triton" and triton.url in error.value for error in stream.errors)
        assert member.instance.boot != before
        assert set(member.instance.describe().mounted) == {version.adapter.content_hash for version in kit.versions}


def test_a_frozen_one_fails_its_frames_by_their_deadline(kit: Kit, triton: TritonServer) -> None:
    with asking(kit, triton) as engine:
        triton.freeze()
        until_s = time.perf_counter() + 1
        with pytest.raises(DeadlineError) as caught:
            engine.run(jobs_of([[kit.surface.adapter]] * 2, until_s=until_s))
        ended_s = time.perf_counter()
        triton.thaw()
        assert caught.value.field == "deadline"
        assert triton.url in caught.value.message
        # The limit that the call had was what was left, and not the ten seconds of frames without a deadline.
        told = re.search(r"no answer within (.*) s", caught.value.message)
        assert told is not None
        assert 0 < float(told[1]) <= 1
        assert ended_s > until_s - LEAST_S
        jobs = everything(kit)
        until_ready(engine, 1)
        assert right(kit, jobs, engine.run(jobs))


def test_a_deadline_that_is_over_is_told_before_anybody_is_asked(kit: Kit, triton: TritonServer) -> None:
    with asking(kit, triton) as engine:
        rows = executor_of(engine).segment_rows
        with pytest.raises(DeadlineError, match="before a Triton was asked"):
            engine.run(jobs_of([[kit.surface.adapter]], until_s=time.perf_counter() - 0.1))
        assert executor_of(engine).segment_rows == rows
        assert right(kit, everything(kit, 1), engine.run(everything(kit, 1)))


def test_what_ended_just_before_the_deadline_is_not_asked_again(kit: Kit, triton: TritonServer) -> None:
    with asking(kit, triton) as engine:
        instance = fleet_of(engine).members[0].instance
        limits: list[float] = []

        def early(work: Pass, pictures: Tensor, limit_s: float) -> NoReturn:
            limits.append(limit_s)
            time.sleep(max(limit_s - 0.8 * LEAST_S, 0))  # gRPC's clock may be early
            raise SilentError(f"no answer within {limit_s:.3g} s", field="triton", value=triton.url)

        instance.run = early  # type: ignore[method-assign] # no Triton ends a call early when it is told to
        with pytest.raises(DeadlineError, match=r"no answer within (1|0\.[1-9])"):
            engine.run(jobs_of([[kit.surface.adapter]], until_s=time.perf_counter() + 1))
        assert len(limits) == 1


def test_a_cause_before_the_deadline_is_told_as_what_it_is(kit: Kit, triton: TritonServer) -> None:
    with asking(kit, triton) as engine:
        triton.kill()
        until_ready(engine, 0)
        members = fleet_of(engine).members
        members[0].away_since_s -= PATIENCE_S  # it is away for long
        with pytest.raises(UnavailableError, match="no Triton can answer now"):
            engine.run(jobs_of([[kit.surface.adapter]], until_s=time.perf_counter() + 600))
        triton.start()


def regions(triton: TritonServer) -> set[str]:
    """The regions of this process that a Triton maps."""
    told = triton.stub.SystemSharedMemoryStatus(service_pb2.SystemSharedMemoryStatusRequest(), timeout=10)
    return {name for name in told.regions if name.startswith(f"lensmount-{os.getpid()}-")}


def until_one_more(triton: TritonServer, before: set[str]) -> None:
    for _ in range(500):
        if len(regions(triton) - before) == 1:
            return
        time.sleep(0.02)
    pytest.fail(f"mapped: {sorted(regions(triton) - before)}")


def test_one_that_was_frozen_and_lived_on_maps_one_region_as_before(kit: Kit, triton: TritonServer) -> None:
    before = regions(triton)
    jobs = everything(kit)
    with asking(kit, triton) as engine:
        assert right(kit, jobs, engine.run(jobs))
        for _ in range(3):
            until_one_more(triton, before)
            triton.freeze()
            until_ready(engine, 0)
            triton.thaw()
            until_ready(engine, 1)
            assert right(kit, jobs, engine.run(jobs))
        until_one_more(triton, before)
    assert regions(triton) == before


def test_what_comes_while_one_is_away_is_there_when_it_is_back(kit: Kit, both: list[TritonServer]) -> None:
    with asking(kit, *both, mount=False) as engine:
        engine.mount(kit.grade.adapter)
        both[0].freeze()
        until_ready(engine, 1)
        engine.mount(kit.surface.adapter)
        engine.unmount(kit.grade.adapter.content_hash)
        both[0].thaw()
        until_ready(engine, 2)
        assert fleet_of(engine).members[0].instance.describe().mounted == (kit.surface.adapter.content_hash,)


def test_a_model_whose_process_died_is_whole_when_it_is_loaded_anew(kit: Kit, triton: TritonServer) -> None:
    with asking(kit, triton) as engine:
        jobs = everything(kit)
        assert right(kit, jobs, engine.run(jobs))
        triton.kill_stubs()
        with pytest.raises(DeadlineError, match="not healthy"):  # it waited for it to come back, and says why
            engine.run(jobs_of([[kit.surface.adapter]], until_s=time.perf_counter() + 3))
        triton.unload()
        triton.load()
        until_ready(engine, 1)
        assert right(kit, jobs, engine.run(jobs))


def test_frames_of_a_triton_that_stays_away_fail_at_once_after_a_while(kit: Kit, triton: TritonServer) -> None:
    with asking(kit, triton) as engine:
        triton.freeze()
        with pytest.raises(UnavailableError):  # it waits for it to come back
            engine.run(everything(kit, 2))
        until_ready(engine, 0)
        with pytest.raises(UnavailableError, match="no Triton can answer now"):
            engine.run(everything(kit, 2))
        start = time.perf_counter()
        with pytest.raises(UnavailableError):
            engine.run(everything(kit, 2))
        assert time.perf_counter() - start < 5
        triton.thaw()
