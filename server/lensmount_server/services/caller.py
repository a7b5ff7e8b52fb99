"""Who calls, as far as a call says so: there is no authentication, so it is a note and no proof."""

from __future__ import annotations

from lensmount_server.registry import By
from lensmount_server.services.errors import Context

ACTOR = "lensmount-actor"
MAX_LENGTH = 200


def caller(context: Context) -> By:
    """Who asks (the metadata `lensmount-actor`) and from which address."""
    metadata = dict(context.invocation_metadata() or ())
    return By(_plain(str(metadata.get(ACTOR, ""))), _plain(context.peer()))


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text[:MAX_LENGTH])
