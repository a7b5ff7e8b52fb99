from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from factories import pictures
from lensmount.errors import IncompatibleError, InvalidInputError, LensmountError, TooLargeError
from lensmount_adapters import golden as golden_module
from lensmount_adapters import package as package_module
from lensmount_adapters.admission import STEPS
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.golden import TOLERANCE, Golden, compare_logits, write_golden
from lensmount_adapters.headers import MAX_HEADER_BYTES
from lensmount_adapters.package import MAX_BYTES
from lensmount_adapters.pictures import Pixels
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.runtime import Engine
from lensmount_server.frames import Still
from lensmount_server.gate import Admitted, Check, golden_check, inspect
from lensmount_server.mounts import Mounts
from lensmount_server.scheduler import Scheduler
from serving import Kit, Version

PASSED = (*STEPS, "golden")
TENSORS, GOLDEN, TASK, CONFIG = (
    "adapter_model.safetensors", "golden.safetensors", "task.json", "adapter_config.json",
)  # fmt: skip


@pytest.fixture
def folder(kit: Kit, tmp_path: Path) -> Path:
    """A good package, to be spoilt."""
    target = tmp_path / "package"
    shutil.copytree(kit.defect[0].folder, target)
    return target


async def pass_gate(folder: Path, backbone: Backbone, checks: list[Check]) -> Admitted:
    """The whole gate, through a scheduler and an engine as a server has them."""
    scheduler = Scheduler(Engine(backbone), Mounts())
    try:
        admitted = inspect(folder, backbone, checks)
        await golden_check(admitted, scheduler.logits, scheduler.engine.precision, checks)
    finally:
        await scheduler.close()
    return admitted


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_tensors(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


async def test_a_good_package_passes_every_check(folder: Path, kit: Kit) -> None:
    checks: list[Check] = []
    admitted = await pass_gate(folder, kit.backbone, checks)
    assert [check.name for check in checks] == list(PASSED)
    assert admitted.package.content_hash == kit.defect[0].adapter.content_hash
    assert admitted.adapter.fork == len(kit.backbone.segments) - 3


def a_weight(tensors: dict[str, Tensor], side: str) -> str:
    return next(name for name in tensors if name.endswith(f"lora_{side}.weight"))


def with_a(change: Callable[[Tensor], Tensor]) -> Callable[[Path], object]:
    """Put `change` of the first A in its place."""

    def put(tensors: dict[str, Tensor]) -> None:
        tensors[a_weight(tensors, "A")] = change(tensors[a_weight(tensors, "A")]).contiguous()

    return lambda folder: edit_tensors(folder / TENSORS, put)


# Each spoils one thing; the later ones do not undo the earlier.
SPOIL: dict[str, Callable[[Path], object]] = {
    "limits": lambda folder: (folder / "README.md").write_bytes(bytes(MAX_BYTES["README.md"] + 1)),
    "schema": lambda folder: edit_json(folder / TASK, lambda task: task.update(labels=[])),
    "backbone": lambda folder: edit_json(folder / TASK, lambda task: task["backbone"].update(fingerprint="0" * 64)),
    "preprocessing": lambda folder: edit_json(folder / TASK, lambda task: task["preprocessing"].update(height=96)),
    "names": lambda folder: edit_tensors(folder / TENSORS, lambda tensors: tensors.pop(a_weight(tensors, "B"))),
    "shapes": with_a(lambda a: a[:, :-1]),
    "dtypes": with_a(lambda a: a.double()),
    "finite": with_a(lambda a: a.index_fill(0, torch.tensor([0]), float("nan"))),
    "rank": lambda folder: edit_json(folder / CONFIG, lambda config: config.update(r=7)),
    "golden": lambda folder: edit_tensors(folder / GOLDEN, lambda tensors: tensors["logits"].add_(1)),
}
TOLD = {
    "limits": (TooLargeError, "README.md", "at most 4,194,304 bytes", "4,194,305 bytes"),
    "schema": (InvalidInputError, "task.json: labels", "at least 1 item", ""),
    "backbone": (IncompatibleError, "task.json: backbone.fingerprint", "other weights", "0" * 64),
    "preprocessing": (IncompatibleError, "task.json: preprocessing", "takes pictures of 160x160 only", "160x96"),
    "names": (InvalidInputError, TENSORS, "A without B", ""),
    "shapes": (InvalidInputError, TENSORS, "shape (4, 64) expected", "(4, 63)"),
    "dtypes": (InvalidInputError, TENSORS, "F32 or F16 or BF16 expected", "F64"),
    "finite": (InvalidInputError, TENSORS, "holds NaN or infinity", ""),
    "rank": (InvalidInputError, TENSORS, "adapter_config.json says rank 7", "rank 4"),
    "golden": (IncompatibleError, "golden check", "differ from the trainer's", ""),
}
ORDER = tuple(SPOIL)


async def told(folder: Path, kit: Kit, first: str) -> list[str]:
    """The steps that were passed before the one error, which must be that of `first`."""
    kind, field, message, value = TOLD[first]
    checks: list[Check] = []
    with pytest.raises(LensmountError) as caught:
        await pass_gate(folder, kit.backbone, checks)
    assert type(caught.value) is kind
    assert caught.value.field.startswith(field)
    assert message in caught.value.message
    assert not value or caught.value.value == value
    assert caught.value.fix
    return [check.name for check in checks]


@pytest.mark.parametrize("first", ORDER)
async def test_each_step_has_its_own_error(folder: Path, kit: Kit, first: str) -> None:
    SPOIL[first](folder)
    assert await told(folder, kit, first) == list(PASSED[: PASSED.index(first)])


@pytest.mark.parametrize(("earlier", "later"), list(itertools.combinations(ORDER, 2)))
async def test_of_two_faults_the_earlier_is_told(folder: Path, kit: Kit, earlier: str, later: str) -> None:
    for name in (earlier, later):
        SPOIL[name](folder)
    assert await told(folder, kit, earlier) == list(PASSED[: PASSED.index(earlier)])


@pytest.mark.parametrize("first", ORDER)
async def test_of_many_faults_the_first_is_told(folder: Path, kit: Kit, first: str) -> None:
    for name in ORDER[ORDER.index(first) :]:
        SPOIL[name](folder)
    await told(folder, kit, first)


# What golden.safetensors must be is asked in the same steps, after the tensors.
GOLDEN_SPOIL: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "names": lambda own: [own.pop(name) for name in list(own) if name != "logits"],
    "shapes": lambda own: own.update(logits=own["logits"][:, :-1].contiguous()),
    "dtypes": lambda own: own.update(logits=own["logits"].half()),
    "finite": lambda own: own["logits"].fill_(float("inf")),
}


@pytest.mark.parametrize("step", GOLDEN_SPOIL)
async def test_golden_pictures_are_looked_at_in_the_same_steps(folder: Path, kit: Kit, step: str) -> None:
    steps = list(GOLDEN_SPOIL)
    SPOIL["rank"](folder)
    for name in reversed(steps[steps.index(step) :]):
        edit_tensors(folder / GOLDEN, GOLDEN_SPOIL[name])
    checks: list[Check] = []
    with pytest.raises(InvalidInputError) as caught:
        await pass_gate(folder, kit.backbone, checks)
    assert caught.value.field.startswith(GOLDEN)
    assert [check.name for check in checks] == list(PASSED[: PASSED.index(step)])
    SPOIL[step](folder)
    await told(folder, kit, step)


def test_nothing_is_read_that_does_not_fit(folder: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        pytest.fail("it read tensors")

    monkeypatch.setattr(package_module, "read_tensors", read)
    monkeypatch.setattr(golden_module, "read_tensors", read)
    SPOIL["dtypes"](folder)
    checks: list[Check] = []
    with pytest.raises(InvalidInputError, match="F64"):
        inspect(folder, kit.backbone, checks)
    assert checks[-1].name == "shapes"


@pytest.mark.parametrize("file", [TENSORS, GOLDEN])
def test_a_header_beyond_its_limit_is_not_parsed(folder: Path, kit: Kit, file: str) -> None:
    body = b" " * (MAX_HEADER_BYTES + 1)
    (folder / file).write_bytes(len(body).to_bytes(8, "little") + body + bytes(100))
    SPOIL["schema"](folder)
    with pytest.raises(TooLargeError, match="a header of at most 8,388,608 bytes") as caught:
        inspect(folder, kit.backbone, [])
    assert (caught.value.field, caught.value.value) == (file, "8,388,609 bytes")
    assert caught.value.fix


async def test_another_model_is_named(folder: Path, kit: Kit) -> None:
    edit_json(folder / TASK, lambda task: task["backbone"].update(name="test_resnet"))
    with pytest.raises(IncompatibleError, match="this server runs test_vit") as caught:
        await pass_gate(folder, kit.backbone, [])
    assert (caught.value.field, caught.value.value) == ("task.json: backbone.name", "test_resnet")
    assert "--backbone test_resnet" in caught.value.fix


# What the golden check is there for: everything fits, and the answers are wrong.

SHOTS = pictures(3, seed=21)


def trained_on(version: Version, see: Callable[[Pixels], Pixels] = lambda pixels: pixels) -> Golden:
    """What a trainer writes down that saw the pictures in its own way."""
    return Golden(SHOTS, torch.stack([version.logits(see(shot)) for shot in SHOTS]))


def bgr(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[:, :, ::-1])


def nearest(pixels: Pixels) -> Pixels:
    """Resized without antialiasing, to the size that serving resizes to."""
    rows = np.arange(168) * pixels.shape[0] // 168
    columns = np.arange(224) * pixels.shape[1] // 224
    return np.ascontiguousarray(pixels[rows][:, columns])


def squashed(pixels: Pixels) -> Pixels:
    """The whole picture in a square, instead of its middle."""
    columns = np.arange(pixels.shape[0]) * pixels.shape[1] // pixels.shape[0]
    return np.ascontiguousarray(pixels[:, columns])


def mirrored(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[:, ::-1])


async def test_the_golden_check_passes_a_trainer_that_saw_what_the_server_sees(folder: Path, kit: Kit) -> None:
    write_golden(folder, trained_on(kit.defect[0]))
    checks: list[Check] = []
    await pass_gate(folder, kit.backbone, checks)
    assert "3 pictures in fp32" in checks[-1].detail


@pytest.mark.parametrize("see", [bgr, nearest, squashed, mirrored])
async def test_the_golden_check_refuses_a_trainer_that_saw_the_pictures_otherwise(
    folder: Path, kit: Kit, see: Callable[[Pixels], Pixels]
) -> None:
    write_golden(folder, trained_on(kit.defect[0], see))
    with pytest.raises(IncompatibleError, match="differ from the trainer's") as caught:
        await pass_gate(folder, kit.backbone, [])
    assert caught.value.field == "golden check"
    assert float(caught.value.value) > TOLERANCE["fp32"]


async def test_the_golden_check_refuses_the_logits_of_another_version(folder: Path, kit: Kit) -> None:
    write_golden(folder, trained_on(kit.defect[1]))
    with pytest.raises(IncompatibleError, match="golden check"):
        await pass_gate(folder, kit.backbone, [])


async def test_the_golden_check_refuses_pictures_in_another_order(folder: Path, kit: Kit) -> None:
    golden = trained_on(kit.defect[0])
    write_golden(folder, Golden(golden.pictures, golden.logits.roll(1, 0).contiguous()))
    with pytest.raises(IncompatibleError, match="golden check"):
        await pass_gate(folder, kit.backbone, [])


@pytest.mark.parametrize("name", ["lora_A", "lora_B", "head"])
async def test_the_golden_check_refuses_stale_weights(folder: Path, kit: Kit, name: str) -> None:
    """Another training's tensor among these, of the same shape."""
    other = load_file(kit.defect[1].folder / TENSORS)

    def swap(tensors: dict[str, Tensor]) -> None:
        key = next(key for key in tensors if name in key and key.endswith("weight"))
        tensors[key] = other[key]

    edit_tensors(folder / TENSORS, swap)
    with pytest.raises(IncompatibleError, match="golden check"):
        await pass_gate(folder, kit.backbone, [])


async def test_the_golden_check_refuses_another_scale(folder: Path, kit: Kit) -> None:
    edit_json(folder / CONFIG, lambda config: config.update(lora_alpha=config["lora_alpha"] * 1.5))
    with pytest.raises(IncompatibleError, match="golden check"):
        await pass_gate(folder, kit.backbone, [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_no_numbers_do_not_pass(kit: Kit, value: float) -> None:
    golden = trained_on(kit.defect[0])
    served = golden.logits.clone()
    served[1, 1] = value
    with pytest.raises(IncompatibleError):
        compare_logits(golden, served, "fp32")


async def test_a_golden_picture_that_can_not_be_prepared_is_one_error(folder: Path, kit: Kit) -> None:
    strip = np.zeros((1, 16_384, 3), np.uint8)
    write_golden(folder, Golden((strip,), torch.zeros(1, 3)))
    with pytest.raises(InvalidInputError, match="narrow"):
        await pass_gate(folder, kit.backbone, [])


# Whatever a package says: an error of ours, or a package that the engine can run.


class Samples:
    """Good packages, without a representation that goes on for pages."""

    def __init__(self, kit: Kit) -> None:
        self.backbone = kit.backbone
        self.folders = [version.folder for version in (kit.defect[0], kit.surface, kit.grade)]
        self.engine = Engine(kit.backbone)

    def admit(self, folder: Path) -> None:
        """The gate without a scheduler."""
        admitted = inspect(folder, self.backbone, [])
        golden = admitted.package.golden
        served = [self.engine.run([Job(Still(shot), (admitted.adapter,))])[0][0] for shot in golden.pictures]
        compare_logits(golden, torch.stack(served), "fp32")

    def refusal(self, which: int, spoil: Callable[[Path], object]) -> LensmountError | None:
        """Why a spoilt copy of one of them is not admitted; None when it is."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "package"
            shutil.copytree(self.folders[which], folder)
            spoil(folder)
            try:
                self.admit(folder)
            except LensmountError as error:
                return error
        return None


def check_told(error: LensmountError | None) -> None:
    """An error names what is wrong and what to do, in a few lines of text."""
    if error is not None:
        assert error.field
        assert error.fix
        assert "Traceback" not in str(error)


@pytest.fixture(scope="module")
def samples(kit: Kit) -> Samples:
    return Samples(kit)


WHICH = st.integers(0, 2)
NUMBERS = st.integers() | st.integers(0, 10) | st.floats() | st.sampled_from([10**400, 2**63, -1, 0.5])
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["blocks.0", "stem", "norm", "lora", "replace", "linear", "mlp", "(a+)+$", "\0"]
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    children = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


@settings(max_examples=250, deadline=None)
@given(which=WHICH, name=st.sampled_from([TASK, CONFIG]), where=st.floats(0, 1, exclude_max=True), value=VALUES)
def test_anything_anywhere_in_the_json_files(samples: Samples, which: int, name: str, where: float, value: Any) -> None:
    def spoil(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {"r": 4, "lora_alpha": 8, "peft_type": "LORA"}
        options = places(content)
        path.write_text(json.dumps(replaced(content, options[int(where * len(options))], value)))

    check_told(samples.refusal(which, spoil))


@settings(max_examples=150, deadline=None)
@given(which=WHICH, name=st.sampled_from([TENSORS, GOLDEN]), where=st.floats(0, 1, exclude_max=True), value=VALUES)
def test_anything_anywhere_in_the_header_of_the_tensors(
    samples: Samples, which: int, name: str, where: float, value: Any
) -> None:
    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        length = int.from_bytes(data[:8], "little")
        content = json.loads(data[8 : 8 + length])
        options = places(content)
        header = json.dumps(replaced(content, options[int(where * len(options))], value)).encode()
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])

    check_told(samples.refusal(which, spoil))


@settings(max_examples=150, deadline=None)
@given(
    which=WHICH,
    name=st.sampled_from(list(MAX_BYTES)),
    where=st.floats(0, 1),
    patch=st.binary(max_size=16),
    length=st.integers(0, 64),
)
def test_any_bytes_anywhere(samples: Samples, which: int, name: str, where: float, patch: bytes, length: int) -> None:
    def spoil(folder: Path) -> None:
        path = folder / name
        data = path.read_bytes() if path.exists() else b""
        at = round(where * len(data))
        path.write_bytes(data[:at] + patch + data[at + length :])

    check_told(samples.refusal(which, spoil))
