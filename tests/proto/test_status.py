from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

import lensmount
from lensmount import errors
from lensmount.errors import LensmountError
from lensmount.status import to_status

if TYPE_CHECKING:
    from proto.conftest import WireDouble


def tree(kind: type[LensmountError]) -> Iterator[type[LensmountError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


# A server has classes of its own below these; they arrive as the class above them.
KINDS = [kind for kind in tree(LensmountError) if kind.__module__ == errors.__name__]


def caught(client: lensmount.Client) -> LensmountError:
    with pytest.raises(LensmountError) as raised:
        client.info()
    return raised.value


def facts(error: LensmountError) -> tuple[type[LensmountError], str, str, str, str]:
    return type(error), error.message, error.field, error.value, error.fix


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("details", [{"field": "tasks[0]", "value": "déf ect\n", "fix": "write “defect”"}, {}])
def test_every_class_arrives_as_itself(
    kind: type[LensmountError], details: dict[str, str], double: WireDouble, client: lensmount.Client
) -> None:
    sent = kind("no such task, sorry", **details)
    double.fail("GetServerInfo", sent)
    assert facts(caught(client)) == facts(sent)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_arrive_in_the_middle_of_a_stream(
    kind: type[LensmountError], double: WireDouble, client: lensmount.Client, result_message: Callable[..., Any]
) -> None:
    def answer(_: Any, context: grpc.ServicerContext) -> Iterator[lensmount.v1.sources_pb2.WatchResultsResponse]:
        yield lensmount.v1.sources_pb2.WatchResultsResponse(result=result_message())
        context.abort_with_status(rpc_status.to_status(to_status(kind("gone", field="sources"))))

    double.answers["WatchResults"] = answer
    watch = client.watch()
    assert next(watch)
    with pytest.raises(kind, match="sources: gone") as raised:
        next(watch)
    assert type(raised.value) is kind
    assert next(watch, None) is None


@given(st.sampled_from(KINDS), *[st.text(max_size=50)] * 4)
def test_the_status_holds_what_the_contract_says(
    kind: type[LensmountError], message: str, field: str, value: str, fix: str
) -> None:
    error = kind(message, field=field, value=value, fix=fix)
    status = to_status(error)
    assert (status.code, status.message) == (kind.code.value[0], message)
    info, violation = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[-1].Unpack(info)
    assert info.domain == "lensmount"
    assert dict(info.metadata).keys() == {name for name in ("field", "value", "fix") if getattr(error, name)}
    assert len(status.details) == (2 if field else 1)
    if field:
        assert status.details[0].Unpack(violation)
        assert [(each.field, each.description) for each in violation.field_violations] == [
            (info.metadata["field"], status.message)
        ]


def test_the_reason_is_the_class_in_capitals() -> None:
    info = error_details_pb2.ErrorInfo()
    to_status(errors.InvalidInputError("no")).details[0].Unpack(info)
    assert info.reason == "INVALID_INPUT_ERROR"


@pytest.mark.parametrize("letter", ["a", "错", "\udcff"])
def test_a_hostile_name_can_not_turn_one_error_into_another(
    letter: str, double: WireDouble, client: lensmount.Client
) -> None:
    endless = letter * 1_000_000
    double.fail("GetServerInfo", errors.IncompatibleError(endless, field=endless, value=endless, fix=endless))
    error = caught(client)
    assert type(error) is errors.IncompatibleError
    assert error.message.endswith("…")
    assert error.field.endswith("…")


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError, "lensmount serve"),
        (grpc.StatusCode.CANCELLED, errors.UnavailableError, "ended the call"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineError, "raise the timeout"),
        (grpc.StatusCode.UNIMPLEMENTED, errors.UnimplementedError, "same release"),
        (grpc.StatusCode.UNKNOWN, errors.ServerError, "server's log"),
        (grpc.StatusCode.INTERNAL, errors.ServerError, "because"),
        (grpc.StatusCode.NOT_FOUND, errors.NotFoundError, "because"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.TooLargeError, "because"),
        (grpc.StatusCode.PERMISSION_DENIED, LensmountError, "because"),
    ],
)
def test_a_bare_status_becomes_the_nearest_class(
    code: grpc.StatusCode, kind: type[LensmountError], says: str, double: WireDouble, client: lensmount.Client
) -> None:
    double.answers["GetServerInfo"] = lambda _, context: context.abort(code, "because")
    error = caught(client)
    assert type(error) is kind
    assert says in str(error)
    assert "because" in str(error)


def test_details_of_others_are_not_taken_for_ours(double: WireDouble, client: lensmount.Client) -> None:
    status = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="gone")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="CONFLICT_ERROR", domain="example.org"))
    double.answers["GetServerInfo"] = lambda _, context: context.abort_with_status(rpc_status.to_status(status))
    assert facts(caught(client)) == (errors.NotFoundError, "gone", "", "", "")


def test_damaged_details_leave_the_code_and_the_message(double: WireDouble, client: lensmount.Client) -> None:
    def answer(_: Any, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.ABORTED, "somebody was first")

    double.answers["GetServerInfo"] = answer
    assert facts(caught(client))[:2] == (errors.ConflictError, "somebody was first")


def test_an_unknown_reason_falls_back_on_the_code(double: WireDouble, client: lensmount.Client) -> None:
    status = status_pb2.Status(code=grpc.StatusCode.ABORTED.value[0], message="newer")
    info = error_details_pb2.ErrorInfo(reason="OF_A_LATER_RELEASE", domain="lensmount", metadata={"fix": "wait"})
    status.details.add().Pack(info)
    double.answers["GetServerInfo"] = lambda _, context: context.abort_with_status(rpc_status.to_status(status))
    assert facts(caught(client)) == (errors.ConflictError, "newer", "", "", "wait")


def test_a_message_beyond_the_servers_limit_says_both_sizes(double: WireDouble, client: lensmount.Client) -> None:
    with pytest.raises(errors.TooLargeError, match=r"bytes, the limit is 8,388,608") as raised:
        client.infer(bytes(9 << 20), ["defect"])
    assert "JPEG" in raised.value.fix


def test_a_message_beyond_the_clients_own_limit_too(double: WireDouble, client: lensmount.Client) -> None:
    with pytest.raises(errors.TooLargeError, match=r"the limit is 67,108,864"):
        client.infer(bytes(65 << 20), ["defect"])


def test_no_server_there(connect: Callable[..., lensmount.Client]) -> None:
    with pytest.raises(errors.UnavailableError, match=r"127\.0\.0\.1:1 does not answer") as raised:
        connect("127.0.0.1:1").info()
    assert "lensmount serve" in raised.value.fix
