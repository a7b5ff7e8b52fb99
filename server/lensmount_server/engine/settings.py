"""What an engine is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Device = Literal["cpu", "cuda"]
EngineName = Literal["auto", "openvino", "torch", "reference"]
Precision = Literal["auto", "fp32", "bf16"]
DEVICES: tuple[str, ...] = get_args(Device)
ENGINES: tuple[str, ...] = get_args(EngineName)
PRECISIONS: tuple[str, ...] = get_args(Precision)
DEFAULT_MERGED_MIB = 1024
# Merging takes the time that the compiled LoRA form loses on some five hundred rows (docs/performance.md).
DEFAULT_MERGE_AFTER = 500


@dataclass(frozen=True)
class EngineSettings:
    """What computes and in which precision ("auto": what is fastest here), on how many cores (0: all of them).

    `device` "cuda" computes on the first GPU; `engine` is a matter of CPUs and "auto" there.
    `merged_mib` is the memory, in MiB, that merged tails may take; 0 keeps every adapter in LoRA form.
    `merge_after` is how many rows an adapter answers in compiled LoRA form before its tail is merged.
    """

    engine: str = "auto"
    precision: str = "auto"
    threads: int = 0
    merged_mib: int = DEFAULT_MERGED_MIB
    device: str = "cpu"
    merge_after: int = DEFAULT_MERGE_AFTER
