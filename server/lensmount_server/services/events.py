"""Entries of the journal as the wire tells them."""

from __future__ import annotations

from lensmount.v1 import adapters_pb2
from lensmount_server.firsts import FirstAnswer
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


def first_answer(first: FirstAnswer) -> adapters_pb2.AdapterEvent:
    """A first answer, on this server."""
    kind = adapters_pb2.AdapterEvent.KIND_FIRST_ANSWER
    version = version_id(first.version)
    return adapters_pb2.AdapterEvent(kind=kind, adapter=version, alias=first.alias, time_ns=first.time_ns)
