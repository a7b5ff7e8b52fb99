"""Which executor a backbone gets on this machine."""

from __future__ import annotations

import os

import torch

from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.cpu.compilers import make_compiler
from lensmount_server.engine.cpu.costs import CostTable, cost_table
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.cpu.units import Options
from lensmount_server.engine.runtime import Engine
from lensmount_server.engine.settings import EngineSettings


def open_engine(backbone: Backbone, settings: EngineSettings) -> Engine:
    """The engine for a backbone on this machine, its trunk compiled. Blocks for some seconds.

    Raises LensmountError for an engine that is not installed or can not run this backbone.
    """
    table = choose(backbone, settings)
    if table is None:
        return Engine(backbone)
    return Engine(backbone, cpu_executor(backbone, table, _cores(settings), settings.merged_mib))


def choose(backbone: Backbone, settings: EngineSettings) -> CostTable | None:
    """What this machine runs the backbone with best, within the settings; None for the reference executor.

    Blocks for some seconds the first time. Raises LensmountError for a choice that can not run here.
    """
    torch.set_num_threads(_cores(settings))
    if settings.engine == "reference":
        return None
    return cost_table(backbone, settings.engine, settings.precision, _cores(settings))


def cpu_executor(backbone: Backbone, table: CostTable, cores: int, merged_mib: int) -> CpuExecutor:
    """The CPU's executor as a cost table says."""
    compiler = make_compiler(backbone, table.chosen.engine, table.chosen.precision, cores)
    executor = CpuExecutor(backbone, compiler, Options(table.buckets, wide=True), merged_mib << 20)
    executor.cut(len(backbone.segments), backbone.preprocessing)
    return executor


def _cores(settings: EngineSettings) -> int:
    return settings.threads or len(os.sched_getaffinity(0))
