"""The Tritons that compute for this server: which of them may be asked now, and what all of them must have mounted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lensmount.errors import IncompatibleError, LensmountError, UnavailableError
from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.choice import Candidate
from lensmount_server.triton.instance import Instance
from lensmount_server.triton.member import Member, Wanted
from lensmount_server.triton.wire import FIX, ContentHash, Description

# How long frames wait for a Triton to come back after the last one went away; later ones fail at once.
PATIENCE_S = 10.0


class Fleet:
    """Tritons by their addresses, all with the engine of `backbone` in one precision; for any thread.

    `archive` gives the package of a content hash, or raises LensmountError.
    """

    def __init__(self, backbone: Backbone, urls: Sequence[str], archive: Callable[[ContentHash], bytes]) -> None:
        self._backbone = backbone
        self._wanted = Wanted(archive)
        self._precision = ""
        self.members = [Member(url, self._wanted, self._check) for url in urls]
        self._threads = ThreadPoolExecutor(4 * len(urls), thread_name_prefix="fleet")

    def open(self) -> None:
        """Connect to all, and look after them from now on.

        Raises the error of one whose engine does not fit, UnavailableError where none answers.
        """
        errors = [error for error in map(_connected, self.members) if error is not None]
        wrong = [error for error in errors if not isinstance(error, UnavailableError)]
        if wrong or len(errors) == len(self.members):
            raise (wrong or errors)[0]
        for member in self.members:
            member.keep()

    @property
    def descriptions(self) -> list[Description]:
        """What those that answered host."""
        return [member.description for member in self.members if member.description is not None]

    @property
    def answers(self) -> bool:
        """Whether one of them may be asked now."""
        return any(member.ready for member in self.members)

    @property
    def reason(self) -> str:
        """Each Triton and how it is, for people."""
        return f"computed by Triton: {'; '.join(map(_told, self.members))}"

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What the first of them measured."""
        return self.descriptions[0].candidates if self.descriptions else ()

    def ready(self, until_s: float, without: Member | None = None) -> list[Member]:
        """Those that may be asked, at least one. Waits for it until `until_s` (perf_counter), and not for long.

        Raises UnavailableError, with what the first of them said.
        """
        with self._wanted.changed:
            while True:
                found = [member for member in self.members if member.ready and member is not without]
                if found:
                    return found
                now = time.perf_counter()
                last = min(until_s, max(each.away_since_s for each in self.members) + PATIENCE_S)
                if now >= last or without is not None:
                    raise self._away()
                self._wanted.changed.wait(last - now)

    def mount(self, content_hash: ContentHash) -> None:
        """Bring all an adapter. Raises its error where one of them refuses it; no Triton keeps it then."""
        archive = self._wanted.archive(content_hash)
        with self._wanted.changed:
            members = [member for member in self.members if member.ready]
            if not members:
                raise self._away()
            self._wanted.hashes.add(content_hash)
        errors = [error for error in self._on_all(members, lambda each: each.mount(content_hash, archive)) if error]
        refusals = [error for error in errors if not isinstance(error, UnavailableError)]
        if refusals or len(errors) == len(members):
            self.unmount(content_hash)
            raise (refusals or errors)[0]

    def unmount(self, content_hash: ContentHash) -> None:
        """Have all forget an adapter, those that are away when they are back."""
        with self._wanted.changed:
            self._wanted.hashes.discard(content_hash)
            members = [member for member in self.members if member.ready]
        self._on_all(members, lambda each: each.unmount(content_hash))

    def settle(self, content_hash: ContentHash, limit_s: float) -> None:
        """Wait until an adapter is everywhere as fast as it gets, at most so long."""
        with self._wanted.changed:
            members = [member for member in self.members if member.ready]
        self._on_all(members, lambda each: each.settle(content_hash, limit_s))

    def close(self) -> None:
        """Let go of all."""
        for member in self.members:
            member.close()
        self._threads.shutdown()

    def _on_all(self, members: Sequence[Member], work: Callable[[Member], object]) -> list[LensmountError | None]:
        return list(self._threads.map(lambda member: _error_of(work, member), members))

    def _check(self, url: str, description: Description) -> None:
        """Raise IncompatibleError for another backbone or precision than the others'."""
        check_fits(self._backbone, url, description)
        self._precision = self._precision or description.precision
        if description.precision != self._precision:
            message = f"it computes in {description.precision}, the others in {self._precision}"
            fix = "export one model for all: lensmount export triton --precision fp32, or bf16"
            raise IncompatibleError(message, field="triton", value=url, fix=fix)

    def _away(self) -> UnavailableError:
        urls = ", ".join(member.url for member in self.members)
        reason = next((member.reason for member in self.members if member.reason), "it is busy")
        fix = "start it again, or look at its log; it is used again as soon as it answers"
        return UnavailableError(f"no Triton can answer now: {reason}", field="triton", value=urls, fix=fix)


def examined(backbone: Backbone, url: str) -> str:
    """What one Triton hosts, for people; raises LensmountError where this server could not use it. Changes nothing."""
    instance = Instance(url)
    try:
        description = instance.describe()
        check_fits(backbone, url, description)
        return f"{description.engine} in {description.precision} on {description.device}"
    finally:
        instance.close()


def check_fits(backbone: Backbone, url: str, description: Description) -> None:
    """Raise IncompatibleError for another backbone than this server's."""
    if (description.backbone, description.fingerprint) != (backbone.name, backbone.fingerprint):
        hosted = f"{description.backbone} {description.fingerprint[:12]}"
        message = f"it hosts {hosted}, this server runs {backbone.name} {backbone.fingerprint[:12]}"
        fix = "export the model again from the weights of this server: lensmount export triton"
        raise IncompatibleError(message, field="triton", value=url, fix=fix)
    if description.segments != len(backbone.segments):
        raise IncompatibleError("it cuts the backbone into other segments", field="triton", value=url, fix=FIX)


def _connected(member: Member) -> LensmountError | None:
    return _error_of(Member.connect, member, remember=True)


def _error_of(work: Callable[[Member], object], member: Member, *, remember: bool = False) -> LensmountError | None:
    try:
        work(member)
    except LensmountError as error:
        if remember:
            member.reason = error.message
        return error
    return None


def _told(member: Member) -> str:
    description = member.description
    if not member.ready or description is None:
        return f"{member.url} is away ({member.reason})"
    memory = "shared memory" if member.instance.shares_memory else "gRPC"
    return f"{member.url} has {description.engine} in {description.precision} on {description.device}, by {memory}"
