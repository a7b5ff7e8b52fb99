"""Each setting from each source, which one goes first, and what is refused."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lensmount.errors import InvalidInputError
from lensmount_server import commands
from lensmount_server.settings import Reading, Settings, read
from lensmount_server.settings import command as config_command
from lensmount_server.settings.hiding import hidden
from lensmount_server.settings.kinds import click_type, repeated
from lensmount_server.settings.layers import FIELDS, OTHERS, flag, variable
from lensmount_server.settings.model import PREFIX
from lensmount_server.settings.options import server_options

ROOT = Path(__file__).parents[3]
Look = Callable[..., Reading]


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in FIELDS:
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """What a command with the server's options is told, when it is typed with these flags, variables and file."""

    def look(flags: dict[str, Any], variables: dict[str, Any], file: dict[str, Any]) -> Reading:
        seen: list[Reading] = []

        @click.command()
        @server_options
        def command(reading: Reading) -> None:
            seen.append(reading)

        typed = [word for name, value in flags.items() for word in words(name, value)]
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(variable(name), ",".join(map(str, value)) if isinstance(value, list) else str(value))
            if file:
                path = tmp_path / "lensmount.toml"
                path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in file.items()))
                typed += ["--config", str(path)]
            done = CliRunner().invoke(command, typed, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return seen[0]

    return look


def words(name: str, value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [word for each in values for word in (flag(name), str(each))]


def samples(name: str, folder: Path) -> tuple[Any, Any]:
    """Two values of a setting as a file has them, neither of them its default."""
    field = FIELDS[name]
    kind = click_type(field)
    if isinstance(kind, click.Choice):
        others = [choice for choice in kind.choices if choice != field.default]
        return others[0], others[-1] if len(others) > 1 else field.default
    if isinstance(kind, click.IntRange):
        return field.default + 1, field.default + 2
    first, second = field.examples or ("", "")
    if isinstance(kind, click.Path) and kind.exists:
        for example in (first, second):
            (folder / example.strip("/")).mkdir(parents=True, exist_ok=True)
        first, second = (str(folder / example.strip("/")) for example in (first, second))
    return ([first], [second]) if repeated(field) else (first, second)


def meant(name: str, raw: object) -> object:
    return getattr(Settings(**{name: raw}), name)  # type: ignore[arg-type]


# What a setting is not right without.
COMPANY: dict[str, dict[str, Any]] = {
    "registry": {"packages": "/srv/packages"},
    "backend": {"triton_url": ["localhost:8001"]},
    "triton_url": {"backend": "triton"},
}


@pytest.mark.parametrize("name", FIELDS)
def test_flags_go_before_the_environment_before_the_file_before_defaults(name: str, look: Look, tmp_path: Path) -> None:
    first, second = samples(name, tmp_path)
    default = FIELDS[name].get_default(call_default_factory=True)
    assert meant(name, first) != meant(name, second)
    assert meant(name, first) != default
    one, other = {name: first}, {name: second}
    for sources, value, kind, where in (
        ((one, other, other), first, "flag", flag(name)),
        ((other, one, one), second, "flag", flag(name)),
        (({}, one, other), first, "environment", variable(name)),
        (({}, other, one), second, "environment", variable(name)),
        (({}, {}, one), first, "file", f"{tmp_path / 'lensmount.toml'}:1"),
    ):
        reading = look(*sources)
        if name not in COMPANY:
            assert reading.problems == ()
        (found,) = [each for each in Reading(reading.sources, ()).found() if each.name == name]
        assert (found.value, found.source, found.where) == (meant(name, value), kind, where)
    (found,) = [each for each in look({}, {}, {}).found() if each.name == name]
    assert (found.value, found.source, found.where) == (default, "default", "")


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_reaches_the_server(name: str, tmp_path: Path) -> None:
    company = COMPANY.get(name, {})
    told = Settings(**{**company, name: samples(name, tmp_path)[0]}).serve_config()
    assert told != Settings(**{} if name in {"backend", "triton_url"} else company).serve_config()


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_help_and_two_words_for_one_name(name: str) -> None:
    assert (FIELDS[name].description or "").endswith(".")
    assert flag(name).removeprefix("--").replace("-", "_") == name == variable(name).removeprefix(PREFIX).lower()


COMMANDS = {
    "serve": commands.serve,
    "doctor": commands.doctor,
    "config check": config_command.check,
    "config show": config_command.show,
}


def test_sources_in_another_order_would_be_noticed(look: Look) -> None:
    reading = look({"threads": 1}, {"threads": 2}, {"threads": 3})
    told = [Reading(sources, ()).settings.threads for sources in (reading.sources, reading.sources[::-1])]
    assert told == [1, 3]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_has_more_or_fewer_settings_than_there_are(command: str) -> None:
    options = {option.opts[0]: option.name for option in COMMANDS[command].params if isinstance(option, click.Option)}
    own = {"--config", "--json"} | ({"--toml"} if command == "config show" else set())
    assert options.keys() - own == {flag(name) for name in FIELDS}
    assert {options[flag(name)] for name in FIELDS} == set(FIELDS)


def test_every_variable_of_ours_in_the_code_is_known() -> None:
    known = {variable(name) for name in FIELDS} | OTHERS
    used = set()
    for folder in ("proto", "adapters", "server", "training", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.parent != Path(__file__).parent:
                used |= set(re.findall(r'"(LENSMOUNT_[A-Z_]+)"', path.read_text()))
    assert used - known == set()
    assert {"LENSMOUNT_SERVER", "LENSMOUNT_TEST_DATA"} <= used


KEYS = st.text(string.ascii_lowercase + string.digits + "_-", min_size=1, max_size=40)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=KEYS)
def test_no_unknown_key_of_a_file_is_taken(key: str, tmp_path: Path) -> None:
    assume(key not in FIELDS)
    path = tmp_path / "any.toml"
    path.write_text(f'address = "127.0.0.1:0"\n{key} = 1\n')
    with pytest.raises(InvalidInputError) as caught:
        read({}, path).config()
    assert (caught.value.field, caught.value.value) == (f"{path}:2", key)
    path.write_text('address = "127.0.0.1:0"\n')
    assert read({}, path).config().address == "127.0.0.1:0"


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*FIELDS]), data=st.data())
def test_a_slip_of_the_finger_is_told_the_nearest_name(name: str, data: st.DataObject, tmp_path: Path) -> None:
    at = data.draw(st.integers(0, len(name) - 1))
    put = data.draw(st.sampled_from(["", *string.ascii_lowercase]))
    slip = name[:at] + put + name[at + 1 :]
    assume(slip not in FIELDS)
    path = tmp_path / "slip.toml"
    path.write_text(f"{slip} = 1\n")
    (problem,) = read({}, path).problems
    assert problem.fix == f"did you mean {name}?"


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("LENSMOUNT_HOT_ADAPTER", "8", "did you mean LENSMOUNT_HOT_ADAPTERS?"),
        ("lensmount_hot_adapter", "8", "did you mean LENSMOUNT_HOT_ADAPTERS?"),
        ("lensmount_hot_adapters", "8", "did you mean LENSMOUNT_HOT_ADAPTERS?"),
        ("Lensmount_Config", "lensmount.toml", "did you mean LENSMOUNT_CONFIG?"),
        ("LENSMOUNT_METRICS_PORT", "9999", "did you mean LENSMOUNT_METRICS_ADDRESS?"),
        ("LENSMOUNT_PORT", "50051", "lensmount config show"),
        ("LENSMOUNT_PORT_50051", "tcp://10.0.0.7:50051", "lensmount config show"),
        ("LENSMOUNT_X", "8", "lensmount config show"),
    ],
)
def test_an_unknown_variable_is_refused(name: str, value: str, near: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInputError, match="no such setting") as caught:
        read({}, None).config()
    assert caught.value.field == name
    assert near in caught.value.fix


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LENSMOUNT_SERVER", "camera-hub:50051"),
        ("LENSMOUNT_TEST_DATA", "/data"),
        ("LENSMOUNT_HOT_ADAPTER", ""),
        ("LENSMOUNT_PORT", "tcp://10.0.0.7:50051"),
        ("LENSMOUNT_METRICS_PORT", "tcp://10.0.0.7:9464"),
        ("LENSMOUNT_PORT_50051_TCP", "tcp://10.0.0.7:50051"),
        ("LENSMOUNT_PORT_50051_TCP_ADDR", "10.0.0.7"),
        ("LENSMOUNT_SERVICE_HOST", "10.0.0.7"),
        ("LENSMOUNT_SERVICE_PORT_GRPC", "50051"),
        ("LENSMOUNT_POSTGRESQL_SERVICE_HOST", "10.0.0.8"),
    ],
)
def test_variables_that_are_no_settings_are_let_be(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert read({}, None).problems == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('threads = "4"', "threads ({file}:1): not a whole number (got '4'). Fix: give a whole number from 0 to 1024"),
        ("threads = true", "threads ({file}:1): not a whole number (got True)"),
        ("threads = 4.0", "threads ({file}:1): not a whole number (got 4.0)"),
        ("decode_workers = 257", "decode_workers ({file}:1): too large (got 257)"),
        ("hot_adapters = 0", "hot_adapters ({file}:1): too small (got 0). Fix: give a whole number from 1 on"),
        ("address = 50051", "address ({file}:1): not a text (got 50051)"),
        ('address = "nowhere"', "address ({file}:1): not an address (got nowhere). Fix: give HOST:PORT"),
        ('device = "gpu"', "device ({file}:1): no such choice (got 'gpu'). Fix: give one of cpu, cuda"),
        ('data_dir = "{here}"', "data_dir ({file}:1): Directory '{here}' is a file"),
        ('source_folder = ["/no/such"]', "source_folder ({file}:1): Directory '/no/such' does not exist"),
        ('source_network = "10.0.0.0/8"', "source_network ({file}:1): not a list (got '10.0.0.0/8')"),
        ('source_network = ["10.0.0.1/8"]', "source_network ({file}:1): not a network (got 10.0.0.1/8)"),
        ('source_scheme = ["gopher"]', "source_scheme ({file}:1): no such kind of source here (got gopher)"),
        ('minimum_metric = ["a=1", "a=2"]', "minimum_metric ({file}:1): given twice (got a=2)"),
        (
            'triton_url = ["http://127.0.0.1:8001"]',
            "triton_url ({file}:1): an address, not a URL, is wanted (got http://127.0.0.1:8001). Fix: write 127.0.0.1",
        ),
        ('address = "0.0.0.0:50051/"', "address ({file}:1): an address, not a URL, is wanted"),
        ('metrics_address = "nowhere"', "metrics_address ({file}:1): not an address"),
        ('registry = "mysql://mia:pw@db/x"', "registry ({file}:1): SQLite or PostgreSQL expected (got mysql)"),
        ("[server]\nthreads = 4", "{file}:1: no such setting (got server). Fix: there are no sections"),
        ("hot-adapters = 4", "{file}:1: no such setting (got hot-adapters). Fix: did you mean hot_adapters?"),
        ("threads = ", "{file}: not TOML"),
        ("threads = 1\nthreads = 2", "{file}: not TOML"),
    ],
)
def test_what_a_file_can_not_say(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(line.replace("{here}", str(path)))
    with pytest.raises(InvalidInputError) as caught:
        read({}, path).config()
    assert said.format(file=path, here=path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("threads", "many", "not a whole number (got 'many')"),
        ("threads", "9" * 400, "not a whole number"),
        ("keep_versions", "-1", "too small (got -1)"),
        ("engine", "fast", "no such choice (got 'fast'). Fix: give one of auto, openvino, torch, reference"),
        ("data_dir", "/proc/version", "Directory '/proc/version' is a file"),
        ("source_network", "10.0.0.0/8, camera", "not a network (got camera)"),
    ],
)
def test_what_the_environment_can_not_say(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable(name), value)
    with pytest.raises(InvalidInputError) as caught:
        read({}, None).config()
    assert f"{name} ({variable(name)}): {said}" in str(caught.value)


def test_a_list_in_the_environment_is_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENSMOUNT_SOURCE_NETWORK", "10.0.0.0/8, fd00::/8")
    assert [str(each) for each in read({}, None).config().addresses.networks] == ["10.0.0.0/8", "fd00::/8"]


def test_a_wrong_value_is_told_though_a_stronger_source_says_another(look: Look) -> None:
    reading = look({"threads": 3}, {}, {"threads": "many"})
    assert [(problem.setting, problem.value) for problem in reading.problems] == [("threads", "'many'")]


def test_the_first_error_says_how_many_more_there_are(look: Look) -> None:
    reading = look({}, {"threads": "many"}, {"address": 1, "colour": "red"})
    assert len(reading.problems) == 3
    with pytest.raises(InvalidInputError, match="2 more: lensmount config check lists all"):
        reading.config()


@pytest.mark.parametrize("file", ["missing.toml", "."])
def test_a_file_that_can_not_be_read(file: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="give --config or LENSMOUNT_CONFIG a file that can be read"):
        read({}, tmp_path / file).config()


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInputError, match="not TOML"):
        read({}, tmp_path / "bad.toml").config()


@given(password=st.text(string.ascii_letters + string.digits + string.punctuation, min_size=6, max_size=30))
def test_no_password_is_shown(password: str) -> None:
    secret = f"<{password}>"
    assert secret not in hidden(f"postgresql://mia:{secret}@db.example/lensmount")
    assert "db.example" in hidden(f"postgresql://mia:{secret}@db.example/lensmount")
    assert secret not in hidden(f"s3://key:{secret}@bucket/lensmount")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "postgresql://db/x?user=mia&password=secret&sslmode=require",
            "postgresql://db/x?user=mia&password=***&sslmode=require",
        ),
        ("postgresql://mia:@db/x", "postgresql://mia:***@db/x"),
        ("postgresql://mia@db/x", "postgresql://mia@db/x"),
        ("host=db password=secret user=mia", "host=db password=*** user=mia"),
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("/srv/token=1", "/srv/token=***"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_what_is_hidden_and_what_is_not(text: str, shown: str) -> None:
    assert hidden(text) == shown
