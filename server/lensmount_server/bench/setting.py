"""What a bench ran on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lensmount_server.engine.runtime import Executor


@dataclass(frozen=True)
class Setting:
    """timm's name of the backbone, what computed, in which precision and on how many threads."""

    backbone: str
    engine: str
    precision: str
    threads: int


def setting_of(executor: Executor, backbone: str) -> Setting:
    """The setting of an executor as it is now."""
    return Setting(backbone, executor.name, executor.precision, torch.get_num_threads())
