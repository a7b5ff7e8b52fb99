"""Runs passes on the engines that Tritons host: a pass is cut by frames, and its parts run side by side.

A part whose Triton fails runs once more, on another one or on one that is back by then. What can not be answered in
time fails with the cause; nothing is answered that is not known to come from the adapters that were asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from torch import Tensor

from lensmount.errors import DeadlineError, LensmountError, ServerError, UnavailableError
from lensmount_adapters.adapter import Adapter
from lensmount_server.engine.plan import Pass
from lensmount_server.triton.balancing import joined, shares, split
from lensmount_server.triton.fleet import Fleet
from lensmount_server.triton.member import Member

# How long a batch may take whose frames have no deadline.
LIMIT_S = 10.0
# Where there are others, one that takes so many times as long as it used to is given up; never before half of the
# time is over, or so many seconds.
TOO_SLOW = 4
PATIENT_S = 2.0
# With less time than this nobody is asked any more. gRPC's own clock may end a call some milliseconds early.
LEAST_S = 0.01


class TritonExecutor:
    """An engine's arithmetic on a fleet; `run` is for one thread, everything else may come from any.

    `segment_rows` counts the rows that went through each segment, on all Tritons, since the start.
    """

    name = "triton"

    def __init__(self, fleet: Fleet, segments: int) -> None:
        self._fleet = fleet
        described = fleet.descriptions
        self.precision = described[0].precision
        self.batch_sizes: Sequence[int] = described[0].batch_sizes
        self.batch_ms = _together([each.batch_ms for each in described])
        self.segment_rows = [0] * segments
        self._counting = threading.Lock()
        self._threads = ThreadPoolExecutor(len(fleet.members), thread_name_prefix="part")

    @property
    def answers(self) -> bool:
        """Whether a Triton is there that can be asked."""
        return self._fleet.answers

    def mount(self, adapter: Adapter) -> None:
        """Bring the adapter's package to every Triton. Blocks; raises LensmountError where one refuses it."""
        self._fleet.mount(adapter.content_hash)

    def unmount(self, content_hash: str) -> None:
        """Have every Triton forget an adapter."""
        self._fleet.unmount(content_hash)

    def settle(self, content_hash: str = "", timeout_s: float | None = None) -> None:
        """Wait until an adapter is as fast as it gets, on every Triton; without a name there is nothing to wait for."""
        if content_hash:
            self._fleet.settle(content_hash, LIMIT_S if timeout_s is None else timeout_s)

    def close(self) -> None:
        """Let go of the Tritons."""
        self._fleet.close()
        self._threads.shutdown()

    def run(self, work: Pass, pictures: Tensor) -> list[Tensor]:
        """Logits (frames, labels) of each group of `work`, in the order of its groups and their frames.

        Raises DeadlineError when the time of `work` is over, UnavailableError where no Triton answers, ServerError for
        answers that can not be right, and the hosted engine's own errors.
        """
        if work.until_s <= time.perf_counter():
            fix = "give it more time, or ask for fewer frames a second"
            raise DeadlineError("its time was over before a Triton was asked", field="deadline", fix=fix)
        try:
            return self._run(work, pictures)
        except UnavailableError as error:
            if work.until_s - time.perf_counter() >= LEAST_S:
                raise
            message = f"not answered in time by {error.value}: {error.message}"
            raise DeadlineError(message, field="deadline", fix=error.fix) from error

    def _run(self, work: Pass, pictures: Tensor) -> list[Tensor]:
        until_s = min(work.until_s, time.perf_counter() + LIMIT_S)
        members = self._fleet.ready(until_s)
        sizes = shares(len(work.frames), [member.frame_s for member in members])
        parts = split(work, sizes)
        chosen = [member for member, size in zip(members, sizes, strict=True) if size]
        if len(parts) == 1:
            return self._twice(chosen[0], work, pictures, until_s)
        running = [
            self._threads.submit(self._twice, member, part, pictures[place], until_s)
            for member, (place, part) in zip(chosen, parts, strict=True)
        ]
        wait(running)
        return joined(work, parts, [each.result() for each in running])

    def fetch(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """They are on the CPU, and computed."""
        return list(logits)

    def _twice(self, member: Member, work: Pass, pictures: Tensor, until_s: float) -> list[Tensor]:
        try:
            return self._on(member, work, pictures, self._limit(member, work, until_s))
        except LensmountError as error:
            again = self._again(member, error, until_s)
        return self._on(again, work, pictures, until_s - time.perf_counter())

    def _again(self, member: Member, error: LensmountError, until_s: float) -> Member:
        """Where to ask once more. What one answered wrongly only another is asked, and the one rests.

        Raises the error where there is nobody to ask, or no time.
        """
        try:
            ready = self._fleet.ready(until_s, None if isinstance(error, UnavailableError) else member)
        except UnavailableError:
            if isinstance(error, UnavailableError):
                raise
            raise error from None
        if until_s - time.perf_counter() < LEAST_S:
            raise error
        if isinstance(error, ServerError):
            member.lost(error)
        others = [each for each in ready if each is not member] or ready
        return min(others, key=lambda each: each.frame_s)

    def _limit(self, member: Member, work: Pass, until_s: float) -> float:
        """How long the first attempt may take, in seconds: where there are others, they must have time for another."""
        left = until_s - time.perf_counter()
        if len([each for each in self._fleet.members if each.ready]) == 1 or not member.frame_s:
            return left
        return min(left, max(min(left / 2, PATIENT_S), TOO_SLOW * member.frame_s * len(work.frames)))

    def _on(self, member: Member, work: Pass, pictures: Tensor, limit_s: float) -> list[Tensor]:
        for group in work.groups:
            refusal = member.refused.get(group.adapter.content_hash)
            if refusal is not None:
                raise refusal
        start = time.perf_counter()
        try:
            logits, rows = member.instance.run(work, pictures, max(limit_s, 0.0))
        except UnavailableError as error:
            member.failed(error, time.perf_counter() - start)
            raise
        member.answered(len(work.frames), time.perf_counter() - start)
        with self._counting:
            self.segment_rows = [own + added for own, added in zip(self.segment_rows, rows, strict=True)]
        return logits


def _together(tables: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """What batches cost that are dealt out to several engines: as long as the slowest takes for its part."""
    sizes = set(tables[0]).intersection(*tables)
    return {size * len(tables): max(table[size] for table in tables) for size in sorted(sizes)}
