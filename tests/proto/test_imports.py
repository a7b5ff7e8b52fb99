from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

import lensmount

HEAVY = ("torch", "av", "PIL", "cv2", "rich", "click", "timm", "pydantic", "sqlalchemy", "lensmount_adapters")


def loaded_by(statement: str) -> set[str]:
    """The top-level modules in memory after a statement, in a process of its own."""
    program = (
        f"import sys, json; {statement}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_client_is_light() -> None:
    loaded = loaded_by("import lensmount")
    assert {"lensmount", "grpc", "google", "numpy"} <= loaded
    assert not loaded & set(HEAVY)


def test_the_guard_can_fail() -> None:
    assert loaded_by("import lensmount, rich") & set(HEAVY) == {"rich"}


def test_the_shell_loads_no_extra_to_list_its_commands() -> None:
    loaded = loaded_by("from lensmount.cli import cli; cli.main(['--help'], standalone_mode=False)")
    assert "click" in loaded
    assert not loaded & (set(HEAVY) - {"click", "rich"})
    assert not loaded & {"lensmount_server", "lensmount_training"}


def test_the_public_surface_is_what_it_says() -> None:
    assert lensmount.__version__ == importlib.metadata.version("lensmount")
    assert sorted(lensmount.__all__) == lensmount.__all__
    assert all(hasattr(lensmount, name) for name in lensmount.__all__)


@pytest.mark.parametrize("name", ["Client", "AsyncClient", "Result", "StreamSummary", "LensmountError", "TaskRef"])
def test_public_names_are_documented(name: str) -> None:
    assert getattr(lensmount, name).__doc__


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert methods(lensmount.Client) == methods(lensmount.AsyncClient)
