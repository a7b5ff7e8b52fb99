"""A case and its verdict: the package fits, or one of our errors says why not. Anything else is a finding."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from fuzzing.case import Case
from lensmount.errors import LensmountError
from lensmount_adapters.admission import STEPS, Admitted, Passed, admit
from lensmount_adapters.archive import unpack
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.golden import compare_logits
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.runtime import Engine
from lensmount_server.frames import Still

# An error goes into one message of gRPC, and a person reads it.
MOST_TEXT = 2000
# The golden check takes longer than all steps before it; one in so many packages that reach it goes through.
GOLDEN_EACH = 8


@dataclass(frozen=True)
class Verdict:
    """`kind` is "fits" or the class of the error; `step` the step of the gate that it stands in."""

    kind: str
    step: str


@dataclass(frozen=True)
class Door:
    """What is fuzzed; the controls put defects into it."""

    unpack: Callable[[Path, Path], None] = unpack
    admit: Callable[[Path, Backbone, Passed], Admitted] = admit


class Defect(Exception):  # noqa: N818 - what it says is the finding
    """A refusal that tells too little, or a file where none may be."""


def judge(case: Case, scratch: Path, engines: dict[str, Engine], door: Door) -> Verdict:
    """Take a case through the whole gate in an empty folder.

    Raises Defect for an error that says too little or a file in another place, and whatever the gate raises beyond
    its own errors.
    """
    inner = scratch / "in"
    inner.mkdir()
    (inner / "upload.zip").write_bytes(case.data)
    steps: list[str] = []
    try:
        door.unpack(inner / "upload.zip", inner / "package")
        steps.append("unpack")
        backbone = case.specimen.backbone
        admitted = door.admit(inner / "package", backbone, lambda name, _: steps.append(name))
        if not case.is_right and case.seed % GOLDEN_EACH == 0:
            _golden(admitted, engines[backbone.name])
    except LensmountError as error:
        _check_told(error)
        return Verdict(type(error).__name__, _next(steps))
    finally:
        _check_places(scratch, inner)
    return Verdict("fits", "golden")


def _golden(admitted: Admitted, engine: Engine) -> None:
    golden = admitted.package.golden
    engine.mount(admitted.adapter)
    rows = [engine.run([Job(Still(pixels), (admitted.adapter,))])[0][0] for pixels in golden.pictures]
    compare_logits(golden, torch.stack(rows), "fp32")


def _next(passed: list[str]) -> str:
    """The step behind those that were passed."""
    order = ("unpack", *STEPS, "golden")
    return order[len(passed)]


def _check_told(error: LensmountError) -> None:
    text = str(error)
    if not error.field or not error.fix:
        raise Defect(f"no field or no fix: {text[:200]}") from error
    if len(text) > MOST_TEXT:
        raise Defect(f"{len(text)} characters of text: {text[:200]}") from error
    if "Traceback" in text or " at 0x" in text:
        raise Defect(f"noise: {text[:200]}") from error
    try:
        text.encode()
    except UnicodeEncodeError as odd:
        raise Defect("its text can not be sent") from odd


def _check_places(scratch: Path, inner: Path) -> None:
    beside, within = ({path.name for path in folder.iterdir()} for folder in (scratch, inner))
    shutil.rmtree(inner)
    if beside != {"in"} or not within <= {"upload.zip", "package"}:
        raise Defect(f"files beside the package: {sorted(beside | within)}")
