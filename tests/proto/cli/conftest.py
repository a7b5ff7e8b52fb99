"""The command line in this process, talking to the wire double."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from lensmount.cli import cli

if TYPE_CHECKING:
    from proto.conftest import WireDouble


@pytest.fixture
def run(double: WireDouble) -> Callable[..., Result]:
    """`run("info", "--json")`: the command's exit code, output and error output."""

    def run(*arguments: object) -> Result:
        environment = {"LENSMOUNT_SERVER": double.address}
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], env=environment)

    return run
