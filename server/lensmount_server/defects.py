"""A defect of the server: its trace goes to the log under an id, and nothing but the id to a client."""

from __future__ import annotations

import logging
import uuid

from lensmount.errors import LensmountError, ServerError

log = logging.getLogger(__name__)


def known(error: Exception) -> LensmountError:
    """An error of the tree as it is; anything else is logged and becomes a ServerError with the log's id."""
    if isinstance(error, LensmountError):
        return error
    trace_id = uuid.uuid4().hex[:12]
    log.error("defect %s", trace_id, exc_info=error)
    return ServerError(f"a defect of the server, {trace_id} in its log", fix="report it with that part of the log")
