from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import Result

import lensmount
from lensmount import errors
from lensmount.cli import cli, group
from lensmount.errors import LensmountError
from lensmount.v1 import sources_pb2

if TYPE_CHECKING:
    from proto.conftest import WireDouble

Run = Callable[..., Result]
OWN = {"infer", "stream", "register", "promote", "rollback", "adapters", "sources", "watch", "info"}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Makes `lensmount.commands` hold these entry points, each a module of the given text; or the group `within`."""

    def install(within: str = "", **modules: str) -> None:
        entries = []
        for name, text in modules.items():
            module = f"command_{uuid4().hex}"
            (tmp_path / f"{module}.py").write_text(text)
            entries.append(EntryPoint(name, f"{module}:command", f"{group.ENTRY_POINTS}{within}"))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(group, "entry_points", lambda group: [each for each in entries if each.group == group])

    return install


WORKS = """
import click

@click.command()
@click.option("--loud", is_flag=True)
def command(loud):
    click.echo("SERVING" if loud else "serving")
"""


def test_the_help_has_one_line_for_every_command(run: Run) -> None:
    done = run("--help")
    assert done.exit_code == 0
    lines = done.stdout.partition("Commands:")[2].partition("Examples:")[0].split("\n")
    lines = [line for line in lines if line[:2] == "  " and line[2:3].strip()]
    named = [line.split()[0] for line in lines]
    assert set(named) >= OWN | {"serve", "doctor", "train", "demo"}
    assert named == sorted(named)
    assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize("name", sorted(OWN))
def test_every_own_command_has_help_with_an_example(name: str, run: Run) -> None:
    done = run(name, "--help")
    assert done.exit_code == 0
    command = cli.commands[name]
    leaves = command.commands.values() if isinstance(command, click.Group) else [command]
    for leaf in leaves:
        assert leaf.help
        assert leaf.epilog, f"{leaf.name} shows no example"
        assert "lensmount " in leaf.epilog
        assert {"as_json", "server"} <= {option.name for option in leaf.params}


def test_a_command_of_an_extra_runs(commands: Callable[..., None], run: Run) -> None:
    commands(serve=WORKS)
    assert run("serve", "--loud").stdout == "SERVING\n"
    assert "--loud" in run("serve", "--help").stdout


@pytest.mark.parametrize(("name", "extra"), [("serve", "server"), ("doctor", "server"), ("train", "training")])
def test_a_missing_extra_is_named_with_its_fix(name: str, extra: str, commands: Callable[..., None], run: Run) -> None:
    commands(**{name: "import a_library_that_nobody_has.part"})
    assert name in run("--help").stdout
    done = run(name)
    assert done.exit_code == 4
    assert done.stderr == f"Error: {name} needs the extra '{extra}'. Fix: pip install 'lensmount[{extra}]'\n"


def test_a_missing_library_of_a_third_partys_command_is_named(commands: Callable[..., None], run: Run) -> None:
    commands(weigh="import a_library_that_nobody_has")
    assert "weigh" in run("--help").stdout
    done = run("weigh")
    assert done.exit_code == 4
    assert "needs the module 'a_library_that_nobody_has'" in done.stderr


def test_a_command_of_a_group_within_runs_there_and_only_there(commands: Callable[..., None], run: Run) -> None:
    commands(".adapters", **{"import": WORKS})
    assert run("adapters", "import", "--loud").stdout == "SERVING\n"
    assert group.LISTED["adapters import"].help in run("adapters", "--help").stdout
    assert run("import").exit_code == 2
    assert run("sources", "import").exit_code == 2
    assert "show" in run("adapters", "--help").stdout


def test_the_commands_of_lensmount_are_not_in_its_groups(commands: Callable[..., None], run: Run) -> None:
    commands(serve=WORKS)
    assert run("adapters", "serve").exit_code == 2
    assert "\n  serve " not in run("adapters", "--help").stdout
    assert "\n  serve " in run("--help").stdout


def test_a_missing_extra_of_a_command_within_a_group_is_named(commands: Callable[..., None], run: Run) -> None:
    commands(".adapters", **{"import": "import a_library_that_nobody_has", "convert": "import another_of_those"})
    done = run("adapters", "import")
    assert done.exit_code == 4
    assert done.stderr == "Error: adapters import needs the extra 'training'. Fix: pip install 'lensmount[training]'\n"
    assert "adapters convert needs the module 'another_of_those'" in run("adapters", "convert").stderr


def test_an_error_within_a_group_is_one_line_and_its_exit_code(commands: Callable[..., None], run: Run) -> None:
    text = f"{WORKS}    from lensmount.errors import NotFoundError\n    raise NotFoundError('it is not there')\n"
    commands(".adapters", **{"import": text})
    done = run("adapters", "import")
    assert (done.exit_code, done.stderr) == (3, "Error: it is not there.\n")


def test_a_defect_of_our_own_is_no_missing_extra(commands: Callable[..., None], run: Run) -> None:
    commands(serve="import lensmount.a_module_that_is_not_there")
    assert isinstance(run("serve").exception, ModuleNotFoundError)


def test_an_entry_point_can_not_replace_an_own_command(commands: Callable[..., None], run: Run) -> None:
    commands(info=WORKS)
    assert "serving" not in run("info").output


def test_shell_completion_imports_nothing(commands: Callable[..., None]) -> None:
    commands(serve="raise SystemExit('imported')")
    completions = ShellComplete(cli, {}, "lensmount", "_LENSMOUNT_COMPLETE").get_completions([], "")
    assert {item.value for item in completions} == OWN | {"serve"}


def test_an_unknown_command_is_clicks_usage_error(run: Run) -> None:
    done = run("inver")
    assert done.exit_code == 2
    assert "No such command 'inver'" in done.stderr


def test_the_version(run: Run) -> None:
    assert lensmount.__version__ in run("--version").stdout


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InvalidInputError, 2),
        (errors.TooLargeError, 2),
        (errors.NotFoundError, 3),
        (errors.ConflictError, 4),
        (errors.UnimplementedError, 4),
        (errors.ServerError, 4),
        (LensmountError, 4),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    kind: type[LensmountError], code: int, double: WireDouble, run: Run
) -> None:
    double.fail("GetServerInfo", kind("it went wrong", field="tasks[0]", value="defect", fix="register it"))
    done = run("info")
    assert done.exit_code == code
    assert done.stderr == "Error: tasks[0]: it went wrong (got defect). Fix: register it\n"
    assert done.stdout == ""


def test_the_error_is_red_on_a_terminal(double: WireDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        "lensmount.cli.group.click.secho", lambda text, **how: written.append(click.style(text, fg=how["fg"]))
    )
    double.fail("GetServerInfo", errors.ServerError("it went wrong"))
    with pytest.raises(SystemExit):
        cli.main(["info", "--server", double.address], prog_name="lensmount")
    assert written == ["\x1b[31mError: it went wrong.\x1b[0m"]


def test_no_server_there(run: Run) -> None:
    done = run("info", "--server", "127.0.0.1:1")
    assert done.exit_code == 4
    assert "127.0.0.1:1 does not answer" in done.stderr
    assert "lensmount serve" in done.stderr


@pytest.mark.parametrize("start", [["-m", "lensmount"], ["-c", "from lensmount.cli import main; main()"]])
def test_it_starts_as_a_program(start: list[str]) -> None:
    done = subprocess.run([sys.executable, *start, "--help"], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("Usage: lensmount [OPTIONS] COMMAND")


@pytest.mark.parametrize("form", [["--json"], []])
def test_ctrl_c_ends_it_without_a_trace(form: list[str], double: WireDouble, result_message: Any) -> None:
    def answer(_: Any, context: Any) -> Iterator[sources_pb2.WatchResultsResponse]:
        while context.is_active():
            yield sources_pb2.WatchResultsResponse(result=result_message())
            time.sleep(0.05)

    double.answers["WatchResults"] = answer
    program = [sys.executable, "-m", "lensmount", "watch", "--server", double.address, *form]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not double.asked["WatchResults"] and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert double.cancelled.wait(60)
