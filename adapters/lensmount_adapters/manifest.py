"""`task.json`: what an adapter package says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from lensmount.errors import InvalidInputError
from lensmount_adapters.heads import HeadSpec
from lensmount_adapters.preprocessing import Preprocessing

T = TypeVar("T")

SCHEMA_VERSION = 1

TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Edit(_Frozen):
    """What the adapter does to one segment, by its name."""

    segment: str
    kind: Literal["lora", "replace"]


class BackboneRef(_Frozen):
    """The backbone that the adapter was trained on."""

    name: str
    fingerprint: Sha256


class Provenance(_Frozen):
    """Where the adapter comes from: enough to make it again."""

    data_hash: str
    seed: int
    created: str
    versions: dict[str, str] = {}
    settings: dict[str, str | int | float | bool] = {}
    parents: list[str] = []


class Manifest(_Frozen):
    """The task, its labels and everything that a server checks before it serves them."""

    schema_version: Literal[1] = 1
    task: TaskName
    labels: list[Label] = Field(min_length=1, max_length=1000)
    kind: Literal["single_label", "multi_label"] = "single_label"
    head: HeadSpec
    strategy: str = Field(min_length=1, max_length=64)
    edits: list[Edit] = Field(default=[], max_length=1000)
    fork: int = Field(ge=0)
    backbone: BackboneRef
    preprocessing: Preprocessing
    temperature: float = Field(default=1.0, ge=1e-3, le=1e3)
    thresholds: list[Probability] = []
    metrics: dict[str, float] = {}
    requirements: dict[str, float] = {}
    provenance: Provenance

    @field_validator("labels")
    @classmethod
    def _every_label_once(cls, labels: list[str]) -> list[str]:
        return _distinct("label", labels, labels)

    @field_validator("edits")
    @classmethod
    def _every_segment_once(cls, edits: list[Edit]) -> list[Edit]:
        return _distinct("segment", edits, [edit.segment for edit in edits])

    @field_validator("thresholds")
    @classmethod
    def _one_for_each_label(cls, thresholds: list[float], info: ValidationInfo) -> list[float]:
        labels = info.data.get("labels", thresholds)
        if thresholds and len(thresholds) != len(labels):
            raise ValueError(f"{len(thresholds)} given; one for each of the {len(labels)} labels, or none")
        return thresholds


def parse_manifest(text: str | bytes) -> Manifest:
    """Parse `task.json`; InvalidInputError names the first field that is wrong."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise invalid("task.json", error) from error


def read_manifest(folder: Path) -> Manifest:
    """Read `task.json` of a package folder."""
    return parse_manifest((folder / "task.json").read_bytes())


def invalid(file: str, error: ValidationError) -> InvalidInputError:
    """The first complaint of pydantic as an error of ours; the value is named where it is a plain one."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    fix = "write the package with `lensmount train`, or see docs/adapter-package.md"
    field = f"{file}: {path}" if path else file
    plain = isinstance(first["input"], str | int | float) and first["type"] != "json_invalid"
    value = first["input"] if plain else ""
    return InvalidInputError(first["msg"].removeprefix("Value error, "), field=field, value=value, fix=fix)


def _distinct(what: str, items: list[T], names: list[str]) -> list[T]:
    again = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if again is not None:
        raise ValueError(f"{what} {again} is given twice")
    return items
