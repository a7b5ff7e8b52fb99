"""What a package must be to run on a backbone, one step after the other.

A package that is wrong in two ways is told of the earlier:

    limits          files, their sizes, headers and counts
    schema          task.json, adapter_config.json, the headers of the tensor files
    hash            the identity of its content
    backbone        the very weights that it was trained on
    preprocessing   pictures of a size that the backbone takes
    names           segments, tensors and golden pictures: none missing, none left over
    shapes          of tensors, golden pictures and logits
    dtypes          of the same
    finite          no NaN, no infinity
    rank            A and B as adapter_config.json says; and what only the values of edits tell

Until `finite` nothing is read but JSON and headers, and what is read then has the shapes of the backbone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lensmount_adapters.adapter import Adapter, check_backbone, check_names, check_preprocessing
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.golden import check_golden_dtypes, check_golden_names, check_golden_shapes
from lensmount_adapters.package import Described, Package, check_limits, content_hash, describe, model_name

STEPS = (
    "limits", "schema", "hash", "backbone", "preprocessing", "names", "shapes", "dtypes", "finite", "rank",
)  # fmt: skip

# Told after each step that was passed: its name, and what it found, for people.
Passed = Callable[[str, str], object]


@dataclass(frozen=True, eq=False)
class Seen:
    """A package that is right as far as it can be said without a backbone."""

    described: Described
    content_hash: str


@dataclass(frozen=True, eq=False)
class Admitted:
    """A package that passed every step, and its adapter on the backbone."""

    package: Package
    adapter: Adapter


def admit(folder: Path, backbone: Backbone, passed: Passed) -> Admitted:
    """Take an unpacked package through every step that needs no engine. Blocks.

    Raises IncompatibleError for another backbone or size of pictures, InvalidInputError or TooLargeError for what is
    wrong in itself or does not fit.
    """
    return admit_to(backbone, look_at(folder, passed), passed)


def look_at(folder: Path, passed: Passed) -> Seen:
    """The steps that need no backbone: limits, schema, hash. Raises InvalidInputError or TooLargeError."""
    check_limits(folder)
    passed("limits", f"{sum(path.stat().st_size for path in folder.iterdir()):,} bytes")
    described = describe(folder)
    passed("schema", f"task {described.manifest.task}, {len(described.manifest.labels)} labels")
    identity = content_hash(folder)
    passed("hash", f"content {identity[:12]}")
    return Seen(described, identity)


def admit_to(backbone: Backbone, seen: Seen, passed: Passed) -> Admitted:
    """The steps behind `look_at`; raises as `admit`."""
    described, manifest = seen.described, seen.described.manifest
    check_backbone(manifest, backbone)
    passed("backbone", f"{backbone.name} {backbone.fingerprint[:12]}")
    check_preprocessing(manifest, backbone)
    passed("preprocessing", f"{manifest.preprocessing.size}, {manifest.preprocessing.interpolation}")
    entries = {model_name(name): entry for name, entry in described.tensors.items()}
    fitting = check_names(manifest, described.lora, backbone, entries)
    check_golden_names(described.golden)
    passed("names", f"{len(entries)} tensors, fork {fitting.fork}, {len(described.golden) - 1} golden pictures")
    fitting.layout.check_shapes()
    check_golden_shapes(described.golden, len(manifest.labels))
    passed("shapes", "as the backbone's")
    fitting.layout.check_dtypes()
    check_golden_dtypes(described.golden)
    passed("dtypes", ", ".join(sorted({entry.dtype for entry in entries.values()})))
    package = described.read(seen.content_hash)
    passed("finite", f"{sum(tensor.numel() for tensor in package.tensors.values()):,} numbers")
    fitting.layout.check_ranks()
    adapter = fitting.adapter(package.tensors, seen.content_hash)
    passed("rank", _ranks(adapter))
    return Admitted(package, adapter)


def _ranks(adapter: Adapter) -> str:
    ranks = sorted({len(delta.a) for delta in adapter.deltas.values()})
    return f"{len(adapter.deltas)} low-rank edits" + (f" of rank {', '.join(map(str, ranks))}" if ranks else "")
