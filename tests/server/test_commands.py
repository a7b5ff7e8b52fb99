from __future__ import annotations

import contextlib
import json
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from factories import pictures
from lensmount import Client
from lensmount.cli import cli
from lensmount.errors import LensmountError
from lensmount_adapters.backbones import Segment
from lensmount_server import commands
from lensmount_server.config import ServeConfig
from lensmount_server.registry import Places
from processes import options, serving
from serving import CLOSE, PATIENCE_S, Kit

SHOT = pictures(1, seed=14)[0]


def test_a_server_that_is_told_to_stop_stops_and_starts_again_with_all_it_had(kit: Kit, tmp_path: Path) -> None:
    with serving(kit, tmp_path / "data") as process, Client(process.address, timeout=PATIENCE_S) as client:
        assert process.said == {
            "event": "listening",
            "address": process.address,
            "backbone": "test_vit",
            "fingerprint": kit.backbone.fingerprint,
        }
        for version in kit.defect[:2]:
            client.register(version.folder, alias="live")
        stream = iter(client.stream((SHOT for _ in range(10**9)), "defect"))
        assert next(stream).version == 2
        status, log = process.stop(signal.SIGTERM)
        with contextlib.suppress(LensmountError):
            assert all(result.version == 2 for result in stream)
    assert status == 0
    assert "Traceback" not in log
    assert "stopping" in log

    with serving(kit, tmp_path / "data") as process, Client(process.address, timeout=PATIENCE_S) as client:
        assert [(adapter.version, adapter.aliases) for adapter in client.adapters()] == [(2, ("live",)), (1, ())]
        (result,) = client.infer(SHOT, "defect")
        assert [each.score for each in result.scores] == pytest.approx(kit.defect[1].scores(SHOT), abs=CLOSE)
        status, log = process.stop(signal.SIGINT)
    assert status == 0
    assert "Traceback" not in log


def run(*arguments: str) -> tuple[int, str]:
    """A command in this process: its exit status and all that it said."""
    done = CliRunner().invoke(cli, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_a_server_that_can_not_start_says_why_in_one_line(kit: Kit, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = f"127.0.0.1:{listener.getsockname()[1]}"
        status, said = run("serve", *options(kit, tmp_path / "data"), "--address", taken)
    assert status == 4
    assert said.startswith("Error: address: can not listen")
    assert taken in said
    assert "Fix: give --address another port" in said


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--address", "nowhere"], 2, "give HOST:PORT"),
        (["--backbone", "no_such_model"], 2, "timm has no model of this name"),
        (["--backbone", "test_resnet"], 2, "does not fit"),
        (["--threads", "-1"], 2, "--threads"),
    ],
)
def test_options_that_can_not_be(kit: Kit, tmp_path: Path, arguments: list[str], status: int, told: str) -> None:
    found, said = run("serve", *options(kit, tmp_path / "data"), *arguments)
    assert found == status
    assert told in said
    assert "Traceback" not in said


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[ServeConfig]:
    """What `lensmount serve` would have run."""
    configs: list[ServeConfig] = []

    async def note(config: ServeConfig, _on_ready: object) -> None:
        configs.append(config)

    monkeypatch.setattr(commands, "run_server", note)
    return configs


def test_where_sources_may_come_from(told: list[ServeConfig], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    schemes = ["--source-scheme", "rtsp", "--source-scheme", "FILE"]
    folders = ["--source-folder", str(tmp_path / "link"), "--source-folder", "/usr"]
    networks = ["--source-network", "192.168.7.0/24", "--source-network", "fd00::/8", "--source-network", "10.0.0.7"]
    assert run("serve", *schemes, *folders, *networks) == (0, "")
    policy = told[0].addresses
    assert policy.schemes == ("rtsp", "file")
    assert policy.folders == (tmp_path.resolve(), Path("/usr"))
    assert [str(network) for network in policy.networks] == ["192.168.7.0/24", "fd00::/8", "10.0.0.7/32"]


def test_sources_come_from_the_current_folder_if_nothing_is_said(
    told: list[ServeConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("serve") == (0, "")
    policy = told[0].addresses
    assert policy.folders == (tmp_path,)
    assert {"rtsp", "http", "file", "folder", "usb"} <= set(policy.schemes)
    assert policy.networks == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--source-scheme", "gopher"], "no such kind of source"),
        (["--source-network", "10.0.0.1/8"], "not a network"),
        (["--source-network", "camera"], "write it like 192.168.1.0/24"),
        (["--source-folder", "/no/such/folder"], "does not exist"),
    ],
)
def test_places_that_can_not_be(told: list[ServeConfig], arguments: list[str], said: str) -> None:
    status, output = run("serve", *arguments)
    assert status == 2
    assert said in " ".join(output.split())
    assert told == []


def test_help_says_where_sources_may_come_from() -> None:
    _, said = run("serve", "--help")
    said = " ".join(said.split())
    assert "--source-scheme SCHEME" in said
    assert "rtsp, rtsps, http" in said
    assert "Without it: the current folder." in said
    assert "192.168.7.0/24" in said


def test_serve_tells_people_what_they_need(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    commands._announce("127.0.0.1:50051", kit.backbone)
    said = capsys.readouterr().out
    assert "test_vit" in said
    assert "8 segments" in said
    assert "127.0.0.1:50051" in said
    assert "authentication" not in said


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "[::]:50051", "192.0.2.1:50051"])
def test_serve_warns_where_everybody_can_reach_it(kit: Kit, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands._announce(address, kit.backbone)
    assert "no authentication" in " ".join(capsys.readouterr().out.split())


def test_serve_says_when_nothing_can_be_shared(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Segment("whole", kit.backbone.model, (), lambda x: x, mixable=False)
    commands._announce("127.0.0.1:1", replace(kit.backbone, segments=(whole,)))
    assert "unknown family: tasks with edits run unshared" in " ".join(capsys.readouterr().out.split())


def test_doctor_on_a_good_machine(kit: Kit, tmp_path: Path) -> None:
    status, said = run("doctor", *options(kit, tmp_path / "data"))
    told = json.loads(said)
    assert status == 0
    assert told["ready"] is True
    assert all(finding["ok"] for finding in told["findings"])
    assert {"name", "ok", "detail", "fix"} == told["findings"][0].keys()


def test_doctor_on_a_machine_that_is_not_ready(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, said = run("doctor", *options(kit, tmp_path / "file" / "data"))
    told = json.loads(said)
    assert status == 1
    assert told["ready"] is False
    (bad,) = [finding for finding in told["findings"] if not finding["ok"]]
    assert bad["name"] == "data directory"
    assert "--data-dir" in bad["fix"]


def test_doctor_for_people(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    plain = [option for option in options(kit, tmp_path / "data") if option != "--json"]
    status, said = run("doctor", *plain)
    assert status == 0
    assert "python" in said
    assert "--data-dir" not in said
    (tmp_path / "file").write_text("")
    status, said = run("doctor", *plain, "--data-dir", str(tmp_path / "file" / "data"))
    assert status == 1
    assert "give --data-dir a folder that you may write" in said


def test_where_the_registry_is_and_what_gets_into_it(told: list[ServeConfig]) -> None:
    places = ["--registry", "postgresql://db.example/lensmount", "--packages", "s3://packages/here"]
    minima = ["--minimum-metric", "macro_f1=0.9", "--minimum-metric", "defect:recall.crack=0.98"]
    assert run("serve", *places, *minima, "--keep-versions", "10") == (0, "")
    (config,) = told
    assert (config.places.database, config.places.blobs) == ("postgresql://db.example/lensmount", "s3://packages/here")
    assert [(each.task, each.metric, each.value) for each in config.policy.minima] == [
        ("", "macro_f1", 0.9),
        ("defect", "recall.crack", 0.98),
    ]
    assert config.keep_versions == 10


def test_the_registry_is_in_the_data_directory_if_nothing_is_said(told: list[ServeConfig]) -> None:
    assert run("serve") == (0, "")
    (config,) = told
    assert (config.places, config.policy.minima, config.keep_versions) == (Places(), (), 0)


SHARED = ("--packages", "{here}", "--registry")


@pytest.mark.parametrize(
    ("arguments", "status", "parts"),
    [
        ([*SHARED, "nonsense"], 2, ["registry", "not a database URL", "postgresql"]),
        ([*SHARED, "mysql://db/lensmount"], 2, ["registry", "mysql", "postgresql"]),
        (
            [*SHARED, "sqlite:////no/such/folder/registry.sqlite"],
            4,
            ["registry", "/no/such/folder"],
        ),
        (
            [*SHARED, "postgresql://mia:secret@127.0.0.1:1/lensmount"],
            4,
            ["registry", "127.0.0.1:1"],
        ),
        (["--packages", "gopher://packages/here"], 2, ["not a store", "gopher://packages/here"]),
        (["--packages", "/proc/no/packages"], 4, ["/proc/no/packages"]),
        (["--minimum-metric", "good"], 2, ["minimum_metric", "NAME=NUMBER"]),
        (["--minimum-metric", "macro_f1=high"], 2, ["not a number", "macro_f1=high"]),
        (["--minimum-metric", "macro_f1=nan"], 2, ["finite", "macro_f1=nan"]),
        (["--minimum-metric", "a=1", "--minimum-metric", "a=2"], 2, ["given twice", "a=2"]),
    ],
)
def test_a_registry_that_can_not_be_is_one_clear_line(
    kit: Kit, tmp_path: Path, arguments: list[str], status: int, parts: list[str]
) -> None:
    places = [argument.format(here=tmp_path / "packages") for argument in arguments]
    found, said = run("serve", *options(kit, tmp_path / "data"), *places)
    lines = [line for line in said.splitlines() if line.strip()]
    assert (found, len(lines)) == (status, 1)
    assert lines[0].startswith("Error: ")
    assert all(part in lines[0] for part in [*parts, "Fix: "])
    assert "secret" not in said
    assert "sqlalche.me" not in said


def test_versions_to_keep_are_counted(told: list[ServeConfig]) -> None:
    status, said = run("serve", "--keep-versions", "-1")
    assert status == 2
    assert "--keep-versions" in said
    assert told == []
