"""The commands about adapter versions, as they are typed: what they ask, what they print, how they exit."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from lensmount import errors
from lensmount.cli import cli
from lensmount.v1 import adapters_pb2, common_pb2

if TYPE_CHECKING:
    from proto.conftest import WireDouble

Run = Callable[..., Result]
Event = adapters_pb2.AdapterEvent

VERSION = common_pb2.AdapterVersion(task="defect", version=3, content_hash="ab" * 32)
NOTHING = common_pb2.AdapterVersion(task="defect")
ADAPTER = adapters_pb2.Adapter(version=VERSION, aliases=["live"], strategy="lora", tags={"site": "hall-3", "new": ""})
PINNED = adapters_pb2.Adapter(version=VERSION, pinned=True, pin_reason="audit")
CHANGE = adapters_pb2.SetAliasResponse(
    task="defect", alias="live", version=2, previous_version=3, switch_ms=3.25, etag="17", first_answer_ms=12.5
)


def script(double: WireDouble, method: str, answer: Any) -> None:
    double.answers[method] = lambda *_: answer


def document(done: Result) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "defect").mkdir()
    (tmp_path / "defect" / "task.json").write_text("{}")
    return tmp_path / "defect"


@pytest.fixture
def registering(double: WireDouble) -> WireDouble:
    def register(requests: Any, _: object) -> adapters_pb2.RegisterAdapterResponse:
        list(requests)
        return adapters_pb2.RegisterAdapterResponse(adapter=ADAPTER, alias=CHANGE)

    double.answers["RegisterAdapter"] = register
    return double


def test_register_with_tags(registering: WireDouble, run: Run, package: Path) -> None:
    told = document(run("register", package, "--tag", "site=hall-3", "--tag", "note=a=b", "--tag", "empty=", "--json"))
    header = registering.asked["RegisterAdapter"][0].header
    assert dict(header.tags) == {"site": "hall-3", "note": "a=b", "empty": ""}
    assert not header.validate_only
    assert told["adapter"]["tags"] == {"site": "hall-3", "new": ""}
    assert told["alias_change"]["first_answer_ms"] == 12.5
    assert "registered as defect:3 (live)" in run("register", package).stdout


def test_a_dry_run_keeps_nothing_and_says_so(registering: WireDouble, run: Run, package: Path) -> None:
    shown = run("register", package, "--dry-run")
    assert shown.exit_code == 0
    assert "defect would be registered; nothing was kept" in shown.stdout
    assert "Next:" not in shown.stdout
    assert registering.asked["RegisterAdapter"][0].header.validate_only


@pytest.mark.parametrize("tag", ["site", "=x", ""])
def test_a_tag_that_is_none_is_not_sent(tag: str, double: WireDouble, run: Run, package: Path) -> None:
    for command in (("register", package, "--tag", tag), ("adapters", "tag", "defect:3", tag)):
        done = run(*command)
        assert done.exit_code == 2
        assert "is not KEY=VALUE" in done.stderr
    assert run("adapters", "list", "--tag", "=x").exit_code == 2
    assert not double.asked


def test_promote_and_rollback(double: WireDouble, run: Run) -> None:
    script(double, "SetAlias", CHANGE)
    script(double, "Rollback", CHANGE)
    told = "defect@live is version 2 (was 3), switched after 3.2 ms, first frame answered after 12.5 ms\n"
    assert run("promote", "defect", 2, "--etag", "16").stdout == told
    assert run("rollback", "defect").stdout == told
    back = document(run("rollback", "defect", "--to", 2, "--alias", "canary", "--etag", "5", "--wait", "0", "--json"))
    assert back == {
        "task": "defect",
        "alias": "live",
        "version": 2,
        "previous_version": 3,
        "switch_ms": 3.25,
        "etag": "17",
        "first_answer_ms": 12.5,
    }
    (promoted,) = double.asked["SetAlias"]
    assert (promoted.etag, promoted.first_answer_timeout_ms) == ("16", 5000)
    first, second = double.asked["Rollback"]
    assert (first.alias, first.version, first.etag, first.first_answer_timeout_ms) == ("live", 0, "", 5000)
    assert (second.alias, second.version, second.etag, second.first_answer_timeout_ms) == ("canary", 2, "5", 0)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotFoundError("there is no earlier version", field="alias", value="defect@live", fix="promote"), 3),
        (errors.ConflictError("somebody else changed it", field="etag", value="5", fix="look again"), 4),
        (errors.InvalidInputError("too long", field="first_answer_timeout_ms", value=1, fix="less"), 2),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_code(
    error: errors.LensmountError, status: int, double: WireDouble, run: Run
) -> None:
    for method in ("Rollback", "SetAlias", "UpdateAdapter", "DeleteAlias", "CollectAdapters", "ListEvents"):
        double.fail(method, error)
    for command in (
        ("rollback", "defect"),
        ("promote", "defect", 1),
        ("adapters", "tag", "defect", "a=b"),
        ("adapters", "pin", "defect"),
        ("adapters", "unpin", "defect"),
        ("adapters", "delete", "defect@live"),
        ("adapters", "collect", "--keep", 1),
        ("adapters", "history"),
    ):
        for more in ((), ("--json",)):
            done = run(*command, *more)
            assert (done.exit_code, done.stdout) == (status, "")
            assert error.message in done.stderr
            assert f"Fix: {error.fix}" in done.stderr
            assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("rollback", "defect", "--to", "0"),
        ("rollback", "defect", "--wait", "61"),
        ("promote", "defect", "1", "--wait", "-1"),
        ("adapters", "list", "--limit", "0"),
        ("adapters", "collect"),
        ("adapters", "collect", "--keep", "0"),
        ("adapters", "tag", "defect"),
        ("adapters", "history", "--limit", "0"),
        ("adapters", "watch", "--after", "-1"),
        ("adapters", "delete", "defect:x"),
        ("adapters", "pin", "defect@live:3"),
    ],
)
def test_what_can_not_be_is_not_asked(arguments: tuple[str, ...], run: Run, double: WireDouble) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stderr
    assert not double.asked


def test_list_asks_for_what_is_wanted_and_no_more(double: WireDouble, run: Run) -> None:
    pages: Iterator[str] = iter("12345")

    def answer(*_: object) -> adapters_pb2.ListAdaptersResponse:
        return adapters_pb2.ListAdaptersResponse(adapters=[ADAPTER, PINNED], next_page_token=next(pages))

    double.answers["ListAdapters"] = answer
    wanted = ("--alias", "live", "--tag", "site", "--tag", "line=a", "--search", "Hall", "--pinned", "--task", "defect")
    found = document(run("adapters", "list", *wanted, "--limit", 3, "--json"))
    assert len(found) == 3
    assert [adapter["pin_reason"] for adapter in found] == [None, "audit", None]
    first, second = double.asked["ListAdapters"]
    assert (first.alias, dict(first.tags), first.query) == ("live", {"site": "", "line": "a"}, "Hall")
    assert (first.pinned_only, first.task, first.page_token, second.page_token) == (True, "defect", "", "1")
    shown = run("adapters", "list", "--limit", 2).stdout
    assert "new, site=hall-3" in shown
    assert "pinned: audit" in shown


def test_tag_pin_and_unpin(double: WireDouble, run: Run) -> None:
    script(double, "UpdateAdapter", ADAPTER)
    assert run("adapters", "tag", "defect:3", "site=hall-3", "--remove", "a").stdout == (
        "defect:3 has new=, site=hall-3\n"
    )
    assert document(run("adapters", "tag", "defect@canary", "--remove", "a", "--json"))["version"] == 3
    assert "defect:3 is pinned" in run("adapters", "pin", "defect", "--reason", "audit of May").stdout
    assert document(run("adapters", "pin", "defect", "--json"))["task"] == "defect"
    assert run("adapters", "unpin", "defect:3").stdout == "defect:3 is not pinned\n"
    assert document(run("adapters", "unpin", "defect:3", "--json"))["pin_reason"] is None
    tagged, removed, pinned, _, unpinned, _ = double.asked["UpdateAdapter"]
    assert (dict(tagged.set_tags), list(tagged.remove_tags)) == ({"site": "hall-3"}, ["a"])
    assert not tagged.HasField("pinned")
    assert (removed.adapter.alias, list(removed.remove_tags)) == ("canary", ["a"])
    assert (pinned.pinned, pinned.pin_reason) == (True, "audit of May")
    assert (unpinned.HasField("pinned"), unpinned.pinned) == (True, False)
    script(double, "UpdateAdapter", adapters_pb2.Adapter(version=VERSION))
    assert run("adapters", "tag", "defect:3", "--remove", "a").stdout == "defect:3 has no tags\n"


@pytest.fixture
def deleting(double: WireDouble) -> WireDouble:
    script(double, "DeleteTask", adapters_pb2.DeleteTaskResponse(versions=4))
    script(double, "DeleteAlias", adapters_pb2.DeleteAliasResponse())
    script(double, "DeleteAdapter", adapters_pb2.DeleteAdapterResponse())
    return double


def test_delete_a_version_or_an_alias(deleting: WireDouble, run: Run) -> None:
    assert run("adapters", "delete", "defect:3").stdout == "deleted defect:3\n"
    assert run("adapters", "delete", "defect@live").stdout == "deleted defect@live\n"
    assert document(run("adapters", "delete", "defect:3", "--json")) == {"deleted": "defect:3"}
    assert [(each.task, each.version) for each in deleting.asked["DeleteAdapter"]] == [("defect", 3)] * 2
    (alias,) = deleting.asked["DeleteAlias"]
    assert (alias.task, alias.alias) == ("defect", "live")
    assert not deleting.asked["DeleteTask"]


def test_a_whole_task_is_deleted_after_a_question(deleting: WireDouble, run: Run) -> None:
    def answering(answer: str) -> Result:
        environment = {"LENSMOUNT_SERVER": deleting.address}
        return CliRunner().invoke(cli, ["adapters", "delete", "defect"], env=environment, input=answer)

    for answer in ("n\n", "\n", ""):
        left = answering(answer)
        assert left.exit_code == 1
        assert "Delete the task defect, its aliases and all of its versions?" in left.output
    without = run("adapters", "delete", "defect", "--json")
    assert (without.exit_code, without.stdout) == (2, "")
    assert "Fix: add --yes" in without.stderr
    assert not deleting.asked
    assert answering("y\n").output.endswith("deleted defect and its 4 versions\n")
    assert run("adapters", "delete", "defect", "--yes").stdout == "deleted defect and its 4 versions\n"
    assert document(run("adapters", "delete", "defect", "--yes", "--json")) == {"deleted": "defect and its 4 versions"}
    assert [each.task for each in deleting.asked["DeleteTask"]] == ["defect"] * 3


def test_collect(double: WireDouble, run: Run) -> None:
    removed = adapters_pb2.CollectAdaptersResponse(removed=[VERSION], size_bytes=3 << 20)
    script(double, "CollectAdapters", removed)
    assert "1 versions would be deleted, 3.0 MiB" in run("adapters", "collect", "--keep", 10, "--dry-run").stdout
    assert "1 versions deleted, 3.0 MiB" in run("adapters", "collect", "--keep", 10, "--task", "defect").stdout
    told = document(run("adapters", "collect", "--keep", 1, "--json"))
    assert (told["size_bytes"], told["removed"][0]["version"], told["dry_run"]) == (3 << 20, 3, False)
    dry, task, one = double.asked["CollectAdapters"]
    assert [(each.keep, each.task, each.dry_run) for each in (dry, task, one)] == [
        (10, "", True),
        (10, "defect", False),
        (1, "", False),
    ]


def events(*_: object) -> adapters_pb2.ListEventsResponse:
    """The journal, newest first."""
    return adapters_pb2.ListEventsResponse(
        events=[
            Event(
                kind=Event.KIND_ROLLED_BACK,
                adapter=VERSION,
                alias="live",
                time_ns=1_700_000_000_000_000_000,
                sequence=12,
                previous_version=4,
                actor="mia",
                origin="ipv4:10.0.0.7:5000",
            ),
            Event(
                kind=Event.KIND_REFUSED,
                adapter=common_pb2.AdapterVersion(task="defect"),
                detail="[bold]no",
                sequence=11,
            ),
        ],
        next_page_token="11",  # noqa: S106 - no password
    )


def test_history(double: WireDouble, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    double.answers["ListEvents"] = events
    shown = run("adapters", "history", "defect", "--alias", "live", "--limit", 2).stdout
    for text in ("12", "rolled back", "defect@live -> 3 (was 4)", "mia", "ipv4:10.0.0.7:5000", "refused", "[bold]no"):
        assert text in shown
    (asked,) = double.asked["ListEvents"]
    assert (asked.task, asked.alias) == ("defect", "live")
    found = document(run("adapters", "history", "--limit", 3, "--json"))
    assert [event["kind"] for event in found] == ["rolled_back", "refused", "rolled_back"]
    assert (found[0]["actor"], found[0]["previous_version"], found[1]["adapter"]["version"]) == ("mia", 4, 0)


def test_watch(double: WireDouble, run: Run) -> None:
    def answer(*_: object) -> Iterator[Event]:
        yield from reversed(events().events)
        yield Event(kind=Event.KIND_FIRST_ANSWER, adapter=VERSION, alias="live", time_ns=1)
        yield Event(kind=99, adapter=VERSION)  # type: ignore[arg-type] # as a later release might

    double.answers["WatchAdapters"] = answer
    done = run("adapters", "watch", "--task", "defect", "--task", "surface", "--after", 7, "--json")
    assert done.exit_code == 0
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["kind"] for event in told] == ["refused", "rolled_back", "first_answer", "unspecified"]
    (asked,) = double.asked["WatchAdapters"]
    assert (list(asked.tasks), asked.after_sequence) == (["defect", "surface"], 7)
    shown = run("adapters", "watch").stdout
    assert "first answer  defect@live -> 3" in shown
    assert "rolled back  defect@live -> 3 (was 4) by mia" in shown
    assert "refused  defect: [bold]no" in shown
    assert not double.asked["WatchAdapters"][1].HasField("after_sequence")


def test_a_watch_that_breaks_exits_with_the_error(double: WireDouble, run: Run) -> None:
    double.fail("WatchAdapters", errors.UnavailableError("the registry is away", fix="wait"))
    done = run("adapters", "watch")
    assert done.exit_code == 4
    assert "the registry is away" in done.stderr


FILES = {"task.json": b"{}", "adapter_model.safetensors": bytes(3000), "README.md": b"# card"}


def archive(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return data.getvalue()


def exporting(double: WireDouble, data: bytes, sent: bytes | None = None) -> None:
    """Answer with an archive; or announce it and send something else."""

    def answer(*_: object) -> Iterator[adapters_pb2.ExportAdapterResponse]:
        digest = hashlib.sha256(data).hexdigest()
        header = adapters_pb2.ExportAdapterHeader(adapter=VERSION, size_bytes=len(data), sha256=digest)
        yield adapters_pb2.ExportAdapterResponse(header=header)
        body = data if sent is None else sent
        for at in range(0, len(body), 1000):
            yield adapters_pb2.ExportAdapterResponse(chunk=body[at : at + 1000])

    double.answers["ExportAdapter"] = answer


def test_export(double: WireDouble, run: Run, tmp_path: Path) -> None:
    data = archive(FILES)
    exporting(double, data)
    folder, file = tmp_path / "new" / "defect", tmp_path / "defect.zip"
    shown = run("adapters", "export", "defect:3", folder)
    assert shown.stdout == f"defect:3 is in {folder} ({len(data):,} bytes)\n"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    told = document(run("adapters", "export", "defect@canary", file, "--json"))
    assert (told["path"], told["size_bytes"], told["adapter"]["version"]) == (str(file), len(data), 3)
    assert file.read_bytes() == data
    taken = run("adapters", "export", "defect", file)
    assert taken.exit_code == 4
    assert "Fix: give another name" in taken.stderr
    assert len(double.asked["ExportAdapter"]) == 2


DAMAGES: dict[str, tuple[bytes, bytes | None, str]] = {
    "flipped": (archive(FILES), archive(FILES).replace(b"# card", b"# cord"), "damaged"),
    "cut": (archive(FILES), archive(FILES)[:-1], "damaged"),
    "longer": (archive(FILES), archive(FILES) + b"x", "damaged"),
    "nothing": (archive(FILES), b"", "damaged"),
    "no archive": (b"no archive at all", None, "no package"),
    "a file too many": (archive({**FILES, "run.py": b""}), None, "that none may have"),
    "a file outside": (archive({**FILES, "../task.json": b""}), None, "that none may have"),
    "a file elsewhere": (archive({**FILES, "/tmp/task.json": b""}), None, "that none may have"),  # noqa: S108
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_export_is_refused_and_leaves_nothing(
    name: str, double: WireDouble, run: Run, tmp_path: Path
) -> None:
    data, sent, said = DAMAGES[name]
    exporting(double, data, sent)
    place = tmp_path / "below" / "defect"
    done = run("adapters", "export", "defect", place)
    assert done.exit_code == 4
    assert said in done.stderr
    assert list(place.parent.iterdir()) == []
    assert not (tmp_path / "below" / "task.json").exists()


def test_an_export_that_breaks_off_leaves_nothing(double: WireDouble, run: Run, tmp_path: Path) -> None:
    def answer(_: object, context: Any) -> Iterator[adapters_pb2.ExportAdapterResponse]:
        yield adapters_pb2.ExportAdapterResponse(chunk=b"without a header")
        double.fail("broken", errors.UnavailableError("the disk broke"))
        double.answers["broken"](None, context)

    double.answers["ExportAdapter"] = answer
    done = run("adapters", "export", "defect", tmp_path / "defect.zip")
    assert done.exit_code == 4
    assert "the disk broke" in done.stderr
    assert list(tmp_path.iterdir()) == []
