"""Why an engine computes as it does: what was measured, and what was told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from lensmount_server.engine.probes import COARSE
from lensmount_server.engine.settings import EngineSettings


class Candidate(BaseModel):
    """One way to compute: milliseconds for one row and for eight, and how far features are from torch's fp32."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    engine: str
    precision: str
    one_row_ms: float
    eight_rows_ms: float
    error: float

    @property
    def too_coarse(self) -> bool:
        """Whether the features are too far from fp32 to be served, or no numbers at all."""
        return not self.error <= COARSE

    @property
    def score(self) -> float:
        """Geometric mean of a row's milliseconds alone and among eight, lower is better; infinite when too coarse."""
        return float("inf") if self.too_coarse else (self.one_row_ms * self.eight_rows_ms / 8) ** 0.5


@dataclass(frozen=True)
class Choice:
    """The reason for an engine in its precision, for a person to read, and the ways that were measured."""

    reason: str
    candidates: tuple[Candidate, ...] = ()


class Reasons(Protocol):
    """What is asked of a choice; it may change while the engine runs."""

    @property
    def reason(self) -> str:
        """Why, for a person to read."""
        ...

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The ways that were measured."""
        ...


PLAIN = Choice("the plain one, for comparison")


def told(settings: EngineSettings) -> str:
    """What the settings leave no choice of, as it is written on the command line; empty when they leave all."""
    own = {"--engine": settings.engine, "--precision": settings.precision}
    return " ".join(f"{name} {value}" for name, value in own.items() if value != "auto")


def measured(settings: EngineSettings, candidates: tuple[Candidate, ...]) -> Choice:
    """The choice among candidates that were measured as the settings say; it is the best score."""
    reason = f"the fastest for one row and for eight, of those whose features are within {COARSE:.0%} of fp32"
    if settings.engine != "auto" and settings.precision != "auto":
        reason = "nothing else was allowed"
    limits = told(settings)
    return Choice(f"{reason} ({limits})" if limits else reason, candidates)
