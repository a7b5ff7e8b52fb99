"""Which executor a backbone gets on this machine."""

from __future__ import annotations

import torch

from lensmount.errors import InvalidInputError, UnavailableError
from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.choice import measured
from lensmount_server.engine.cores import cores
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
    if settings.device == "cuda":
        return open_cuda(backbone, settings)
    table = choose(backbone, settings)
    if table is None:
        return Engine(backbone)
    executor = cpu_executor(backbone, table, settings)
    return Engine(backbone, executor, measured(settings, table.candidates))


def choose(backbone: Backbone, settings: EngineSettings) -> CostTable | None:
    """What this machine runs the backbone with best, within the settings; None for the reference executor.

    Blocks for some seconds the first time. Raises LensmountError for a choice that can not run here.
    """
    torch.set_num_threads(_cores(settings))
    if settings.engine == "reference":
        return None
    return cost_table(backbone, settings.engine, settings.precision, _cores(settings))


def open_cuda(backbone: Backbone, settings: EngineSettings) -> Engine:
    """Move the backbone to the GPU and make its engine; see `check_cuda` for what it raises."""
    check_cuda(settings)
    from lensmount_server.engine.cuda.opening import cuda_engine  # noqa: PLC0415 - brings Triton's compiler with it

    return cuda_engine(backbone, settings.precision)


def check_cuda(settings: EngineSettings) -> None:
    """Raise UnavailableError where there is no GPU, InvalidInputError for an engine that runs on CPUs only."""
    if settings.engine != "auto":
        fix = "leave --engine away, or use --device cpu"
        raise InvalidInputError("this engine is for CPUs", field="engine", value=settings.engine, fix=fix)
    if not torch.cuda.is_available():
        fix = "use --device cpu, or install a GPU's driver and a CUDA build of torch"
        raise UnavailableError("torch finds no GPU", field="device", value="cuda", fix=fix)


def cpu_executor(backbone: Backbone, table: CostTable, settings: EngineSettings) -> CpuExecutor:
    """The CPU's executor as a cost table says."""
    compiler = make_compiler(backbone, table.chosen.engine, table.chosen.precision, _cores(settings))
    options, budget = Options(table.buckets, wide=True), settings.merged_mib << 20
    executor = CpuExecutor(backbone, compiler, options, budget, table.batch_ms, settings.merge_after)
    executor.cut(len(backbone.segments), backbone.preprocessing)
    return executor


def _cores(settings: EngineSettings) -> int:
    return settings.threads or cores()
