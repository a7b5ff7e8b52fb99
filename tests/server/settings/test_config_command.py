"""`lensmount config`, as a person types it."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner

from lensmount.cli import cli, group
from lensmount_server.settings.layers import FIELDS, variable

ROOT = Path(__file__).parents[3]
ENTRY = "lensmount_server.settings.command:config"
URL = "postgresql://mia:secret@db.example/lensmount"


@pytest.fixture(autouse=True)
def _only_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in FIELDS:
        monkeypatch.delenv(variable(name), raising=False)
    entry = EntryPoint("config", ENTRY, group.ENTRY_POINTS)
    monkeypatch.setattr(group, "entry_points", lambda group: [entry] if group == entry.group else [])
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["config", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def written(text: str) -> str:
    Path("lensmount.toml").write_text(text)
    return "lensmount.toml"


def test_the_command_is_installed_and_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lensmount.commands"]["config"] == ENTRY
    assert group.LISTED["config"].extra == "server"


def test_a_file_that_is_well() -> None:
    status, said = run("check", "--config", written('threads = 3\nregistry = ""\n'), "--hot-adapters", "7")
    assert status == 0
    assert f"3 of {len(FIELDS)} settings are given" in said
    assert re.search(r"threads +3 +\(lensmount.toml:1\)", said)
    assert re.search(r"hot_adapters +7 +\(--hot-adapters\)", said)


def test_all_that_is_wrong_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENSMOUNT_DEVIC", "cuda")
    status, said = run("check", "--config", written('threads = "3"\nadress = "x"\n'))
    assert status == 2
    assert [line.partition(": ")[2].partition(":")[0] for line in said.splitlines()] == [
        "LENSMOUNT_DEVIC",
        "lensmount.toml",
        "threads (lensmount.toml",
    ]
    status, said = run("check", "--json", "--config", "lensmount.toml")
    told = json.loads(said)
    assert (status, told["ok"]) == (2, False)
    assert told["problems"][-1] == {
        "setting": "threads",
        "where": "lensmount.toml:1",
        "message": "not a whole number",
        "value": "'3'",
        "fix": "give a whole number from 0 to 1024",
    }


def test_settings_that_do_not_go_together() -> None:
    status, said = run("check", "--registry", "postgresql://db/lensmount")
    assert status == 2
    assert "packages: the registry is shared, its packages are not" in said
    assert run("check", "--registry", "postgresql://db/lensmount", "--packages", "/srv/packages")[0] == 0


def test_a_machine_is_told_that_all_is_well() -> None:
    assert run("check", "--json") == (0, '{"ok": true, "problems": []}\n')


def test_the_file_may_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENSMOUNT_CONFIG", written("threads = 3"))
    assert json.loads(run("show", "--json")[1])["threads"] == {
        "value": 3,
        "source": "file",
        "where": "lensmount.toml:1",
    }
    monkeypatch.setenv("LENSMOUNT_CONFIG", "missing.toml")
    status, said = run("check")
    assert status == 2
    assert "missing.toml: No such file or directory" in said


def test_a_file_beside_is_not_read_unless_it_is_named() -> None:
    written("threads = 3")
    assert json.loads(run("show", "--json")[1])["threads"]["value"] == 0


def test_show_tells_every_setting_and_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENSMOUNT_ENGINE", "torch")
    file = written('packages = "/srv/packages"\nsource_network = ["10.0.0.0/8", "fd00::/8"]\n')
    status, said = run("show", "--config", file, "--registry", URL)
    assert status == 0
    lines = [line.split() for line in said.splitlines()]
    assert [line[0] for line in lines[1:]] == [*FIELDS]
    assert ["engine", "torch", "environment", "LENSMOUNT_ENGINE"] in lines
    assert ["packages", "/srv/packages", "file", "lensmount.toml:1"] in lines
    assert ["source_network", "10.0.0.0/8,", "fd00::/8", "file", "lensmount.toml:2"] in lines
    assert ["registry", "postgresql://mia:***@db.example/lensmount", "flag", "--registry"] in lines
    told = json.loads(run("show", "--config", file, "--registry", URL, "--json")[1])
    assert told.keys() == FIELDS.keys()
    assert told["source_network"]["value"] == ["10.0.0.0/8", "fd00::/8"]
    assert told["weights"] == {"value": None, "source": "default", "where": ""}


@pytest.mark.parametrize("how", ["flag", "environment", "file", "wrong", "unknown", "list"])
@pytest.mark.parametrize("command", [["check"], ["show"], ["check", "--json"], ["show", "--json"]])
def test_nothing_prints_a_password(how: str, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    file = {
        "file": f'registry = "{URL}"\npackages = "s3://key:secret@bucket"',
        "wrong": f'engine = "{URL}"\ndata_dir = 1',
        "unknown": f'registri = "{URL}"\npassword = "secret"',
        "list": f'registry = ["{URL}"]',
    }.get(how, "")
    if how == "environment":
        monkeypatch.setenv("LENSMOUNT_REGISTRY", URL)
        monkeypatch.setenv("LENSMOUNT_REGISTRI", URL)
    flags = ["--registry", URL] if how == "flag" else []
    _, said = run(*command, *flags, "--config", written(file))
    assert "secret" not in said
    assert said


def test_the_file_of_examples_says_what_may_be_written() -> None:
    status, said = run("show", "--toml")
    assert status == 0
    assert tomllib.loads(said) == {}
    lines = [line for line in said.splitlines() if re.match(r"# [a-z_]+ = ", line)]
    Path("videos").mkdir()
    text = "\n".join(line.removeprefix("# ") for line in lines)
    assert tomllib.loads(text).keys() == FIELDS.keys()
    # The folders of the example are of another machine, and its Tritons want to be asked.
    text = re.sub(r"^source_folder = .*$", 'source_folder = ["videos"]', text, flags=re.MULTILINE)
    file = written(re.sub(r"^backend = .*$", 'backend = "triton"', text, flags=re.MULTILINE))
    assert run("check", "--config", file)[0] == 0
    for name, value in tomllib.loads(text).items():
        default = FIELDS[name].default
        assert value == default or FIELDS[name].examples


def test_the_groups_help_names_both() -> None:
    said = run("--help")[1]
    assert "check" in said
    assert "show" in said
