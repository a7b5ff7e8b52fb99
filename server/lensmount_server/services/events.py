"""Entries of the journal as the wire tells them."""

from __future__ import annotations

from lensmount.v1 import adapters_pb2
from lensmount_server.frames import VersionId
from lensmount_server.registry import Entry, Kind
from lensmount_server.services.convert import version_id

KINDS = {kind: adapters_pb2.AdapterEvent.Kind.Value(f"KIND_{kind.name}") for kind in Kind}


def event(entry: Entry) -> adapters_pb2.AdapterEvent:
    """An entry."""
    return adapters_pb2.AdapterEvent(
        kind=KINDS[entry.kind],
        adapter=version_id(entry.version),
        alias=entry.alias,
        time_ns=entry.time_ns,
        sequence=entry.seq,
        previous_version=entry.previous,
        actor=entry.by.actor,
        origin=entry.by.origin,
        detail=entry.detail,
    )


def first_answer(version: VersionId, alias: str, time_ns: int) -> adapters_pb2.AdapterEvent:
    """A version answered for the first time through an alias, on this server."""
    kind = adapters_pb2.AdapterEvent.KIND_FIRST_ANSWER
    return adapters_pb2.AdapterEvent(kind=kind, adapter=version_id(version), alias=alias, time_ns=time_ns)
