"""The files of deploy/, read."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml

from lensmount.cli import cli
from lensmount_server.settings.command import config

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CONTAINERFILE = DEPLOY / "Containerfile"
COMPOSE = DEPLOY / "compose.yaml"
UNIT = DEPLOY / "lensmount.service"
KUBERNETES = DEPLOY / "kubernetes.yaml"
TOML = DEPLOY / "lensmount.toml"
DOCUMENT = ROOT / "docs" / "deploy.md"
FILES = (CONTAINERFILE, COMPOSE, UNIT, KUBERNETES, TOML)

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def compose() -> dict[str, Any]:
    """compose.yaml, its variables as they are written."""
    read: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return read


def kubernetes(kind: str) -> dict[str, Any]:
    """The first object of a kind."""
    found: dict[str, Any] = next(each for each in yaml.safe_load_all(KUBERNETES.read_text()) if each["kind"] == kind)
    return found


def pod() -> dict[str, Any]:
    """What the Deployment starts."""
    spec: dict[str, Any] = kubernetes("Deployment")["spec"]["template"]["spec"]
    return spec


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions, each with its line put together, comments left out."""
    lines = [line for line in CONTAINERFILE.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def image_environment() -> dict[str, str]:
    """The variables that the image sets."""
    pairs = [word for name, rest in instructions() if name == "ENV" for word in shlex.split(rest)]
    return dict(pair.split("=", 1) for pair in pairs)


def directives(name: str) -> list[str]:
    """The values of a directive of the unit, in order."""
    return [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{name}=")]


def unit_environment() -> dict[str, str]:
    """The variables that the unit sets."""
    return dict(pair.split("=", 1) for value in directives("Environment") for pair in value.split())


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every command of lensmount that a file runs or tells a person to type, with where it stands."""
    for name, rest in instructions():
        if name in {"CMD", "HEALTHCHECK"}:
            words = yaml.safe_load(rest[rest.index("[") :])
            yield f"Containerfile {name}", words[words[0] == "lensmount" :]
    yield "compose.yaml", compose()["services"]["lensmount"]["command"]
    yield "kubernetes.yaml", pod()["containers"][0]["args"]
    for value in directives("ExecStart"):
        yield "lensmount.service", shlex.split(value)[1:]
    for path in (UNIT, DOCUMENT):
        for line in re.findall(r"^(?:#? {4})(?:\S*/)?lensmount ([a-z][^>|\n]*)", path.read_text(), re.MULTILINE):
            yield path.name, shlex.split(line, comments=True)


def parse(words: list[str]) -> click.Context:
    """A command line as click takes it, without running it; raises click.UsageError."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, *words = words
        found = config if (command, name) == (cli, "config") else command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"no such command: {name}")
        command = found
    return command.make_context(command.name, words)
