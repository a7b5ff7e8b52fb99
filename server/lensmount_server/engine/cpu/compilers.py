"""The compilers there are, by name."""

from __future__ import annotations

import importlib.util

from lensmount.errors import InvalidInputError, UnavailableError
from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.cpu.eager import EagerCompiler
from lensmount_server.engine.cpu.units import Compiler

NAMES = ("openvino", "torch")


def make_compiler(backbone: Backbone, name: str, precision: str, cores: int) -> Compiler:
    """The compiler of that name; raises InvalidInputError, or UnavailableError where it is not installed."""
    if name == "torch":
        return EagerCompiler(backbone, precision)
    if name != "openvino":
        raise InvalidInputError("no such engine", field="engine", value=name, fix=f"use one of {', '.join(NAMES)}")
    if importlib.util.find_spec("openvino") is None:
        fix = "pip install 'lensmount[server]', or serve with --engine torch"
        raise UnavailableError("OpenVINO is not installed", field="engine", value=name, fix=fix)
    from lensmount_server.engine.cpu.openvino import OpenVinoCompiler  # noqa: PLC0415 - one second, for some

    return OpenVinoCompiler(backbone, precision, cores)
