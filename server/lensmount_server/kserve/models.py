"""Tasks as KServe models: their names and versions, and what they say of themselves.

The model `defect` is what the alias `live` of the task points at, `defect@canary` what that alias does; a model
version is the number of an adapter version. `defect/picture` is the same model with that one input, for clients that
fill in every input that a model has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from tritonclient.grpc import model_config_pb2, service_pb2

from lensmount.errors import InvalidInputError, NotFoundError
from lensmount_adapters.manifest import Manifest
from lensmount_server.frames import VersionId, Want

LIVE = "live"
PLATFORM = "lensmount"
# Pictures in one request.
MAX_PICTURES = 256
# A task and an alias have 64 characters at most, an input 12.
MAX_NAME = 142
VERSION = re.compile(r"[1-9][0-9]{0,9}")
# What Triton reads as a number, as far as it fits into 64 bits.
DIGITS = re.compile(r"[0-9]{1,30}")
MAX_NUMBER = 2**63 - 1

PICTURE, ENCODED, PIXEL_VALUES = "picture", "encoded", "pixel_values"
SCORES, LABELS = "scores", "labels"
INPUTS = (PICTURE, ENCODED, PIXEL_VALUES)
DATATYPES = {PICTURE: "UINT8", ENCODED: "BYTES", PIXEL_VALUES: "FP32", SCORES: "FP32", LABELS: "BYTES"}
_TYPES = {"UINT8": "TYPE_UINT8", "BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}


def wanted(name: str, version: str = "") -> Want:
    """What a model's name and version ask for.

    Raises NotFoundError for a name that no model and a number that no version has, InvalidInputError for no number.
    """
    if not name or len(name) > MAX_NAME:
        fix = "name a task, or a task and an alias: defect@canary"
        raise NotFoundError("no model has such a name", field="model_name", value=name, fix=fix)
    if version and (not DIGITS.fullmatch(version) or int(version) > MAX_NUMBER):
        fix = "give the number of an adapter version, or nothing for what the alias points at"
        raise InvalidInputError("not a version", field="model_version", value=version, fix=fix)
    return _wanted(name, version)


@lru_cache(maxsize=4096)
def _wanted(name: str, version: str) -> Want:
    model, slash, form = name.partition("/")
    if slash and form not in INPUTS:
        fix = f"name one of its inputs behind the slash, or none: {', '.join(INPUTS)}"
        raise NotFoundError("no such model", field="model_name", value=name, fix=fix)
    task, at, alias = model.partition("@")
    if at and not alias:
        fix = f"name one, as in {task or 'defect'}@canary, or leave the @ away for what is live"
        raise NotFoundError("an alias is missing behind the @", field="model_name", value=name, fix=fix)
    if version and not int(version):
        fix = "give a number from 1 on, or nothing for what the alias points at"
        raise NotFoundError("no such version", field="model_version", value=version, fix=fix)
    return Want(task, alias if at else LIVE, int(version or 0))


def name_of(task: str, alias: str) -> str:
    """The model that an alias of a task is."""
    return task if alias == LIVE else f"{task}@{alias}"


def metadata(name: str, manifest: Manifest, versions: Iterable[int]) -> Any:
    """A ModelMetadataResponse that lists `versions`; shapes begin with the number of pictures, -1 is any."""
    tensors = [
        [
            service_pb2.ModelMetadataResponse.TensorMetadata(name=own, datatype=DATATYPES[own], shape=[-1, *dims])
            for own, dims in each
        ]
        for each in (_inputs(name, manifest), _outputs(manifest))
    ]
    return service_pb2.ModelMetadataResponse(
        name=name,
        versions=map(str, versions),
        platform=PLATFORM,
        inputs=tensors[0],
        outputs=tensors[1],
    )


def config(name: str, version: VersionId, manifest: Manifest, versions: Iterable[int]) -> Any:
    """A ModelConfig of a version, which lists `versions`: what load generators want to know before they begin."""
    inputs = _inputs(name, manifest)
    made = model_config_pb2.ModelConfig(
        name=name,
        backend=PLATFORM,
        max_batch_size=MAX_PICTURES,
        input=[
            model_config_pb2.ModelInput(name=own, data_type=_type(own), dims=dims, optional=len(inputs) > 1)
            for own, dims in inputs
        ],
        output=[
            model_config_pb2.ModelOutput(name=own, data_type=_type(own), dims=dims) for own, dims in _outputs(manifest)
        ],
        response_cache=model_config_pb2.ModelResponseCache(enable=False),
    )
    made.version_policy.specific.versions.extend(versions)
    made.dynamic_batching.SetInParent()
    facts = {
        "task": version.task,
        "version": str(version.version),
        "content_hash": version.content_hash,
        "kind": manifest.kind,
    }
    for key, text in facts.items():
        made.parameters[key].string_value = text
    return made


def decisions(manifest: Manifest) -> int:
    """How many labels a row of the output `labels` holds: one, or for multi-label as many as there are, padded."""
    return 1 if manifest.kind == "single_label" else len(manifest.labels)


def _inputs(name: str, manifest: Manifest) -> list[tuple[str, list[int]]]:
    """The inputs of the model of that name: all, or the one behind the slash."""
    seen = manifest.preprocessing
    dims = {PICTURE: [-1, -1, 3], ENCODED: [1], PIXEL_VALUES: [3, seen.height, seen.width]}
    _, slash, form = name.partition("/")
    return [(own, dims[own]) for own in ([form] if slash else INPUTS)]


def _outputs(manifest: Manifest) -> Iterable[tuple[str, list[int]]]:
    return (SCORES, [len(manifest.labels)]), (LABELS, [decisions(manifest)])


def _type(name: str) -> Any:
    return model_config_pb2.DataType.Value(_TYPES[DATATYPES[name]])
