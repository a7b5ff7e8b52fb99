"""Versions that must not answer: what is wrong with them is found once, and told to everybody who asks."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from lensmount.errors import IncompatibleError, LensmountError
from lensmount_server.frames import VersionId

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reason:
    """Why a version is in quarantine, and what to do."""

    message: str
    fix: str


class Quarantine:
    """Reasons by content hash; a version leaves when its content passes the gate again, or with the server."""

    def __init__(self) -> None:
        self._reasons: dict[str, Reason] = {}

    def __len__(self) -> int:
        return len(self._reasons)

    def reason(self, content_hash: str) -> Reason | None:
        """Why a version is here; None when it is not."""
        return self._reasons.get(content_hash)

    def check(self, version: VersionId) -> None:
        """Raise IncompatibleError, which names the reason and the fix, for a version that is in quarantine."""
        reason = self.reason(version.content_hash)
        if reason is not None:
            where = f"{version.task}:{version.version}"
            raise IncompatibleError(f"in quarantine: {reason.message}", field="adapter", value=where, fix=reason.fix)

    def add(self, version: VersionId, error: LensmountError) -> None:
        """Refuse a version from now on."""
        what = f"{error.field}: {error.message}" if error.field else error.message
        self._reasons[version.content_hash] = Reason(what, error.fix or "register a version that works, and promote it")
        log.error("%s:%d is in quarantine: %s", version.task, version.version, error)

    def lift(self, content_hash: str) -> None:
        """Its content passed the gate: whatever was wrong is mended."""
        self._reasons.pop(content_hash, None)
