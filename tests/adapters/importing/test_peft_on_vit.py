"""LoRA that PEFT trained on a Hugging Face ViT answers the same as a package on timm's."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from factories import fitted, merged_model, random_backbone
from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.importing import trained
from lensmount_adapters.importing.names import Place, in_timm
from lensmount_adapters.importing.request import Report, Request
from lensmount_adapters.importing.workflow import import_adapter
from lensmount_adapters.package import read_package
from vits import OLD_NAMES, logits_of, rewrite, save, still, tune, twin

SUBSETS = [[f"{part}_proj" for part in parts] for n in (1, 2, 3) for parts in itertools.combinations("qkv", n)]
OPTIONS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"q_proj": 2, "fc1": 7, r"layers\.1\.attention\.v_proj": 5},
        "alpha_pattern": {"v_proj": 3.5, "o_proj": 9},
    },
    "rslora and patterns": {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    "dora": {"use_dora": True},
    "dora, q and v": {"use_dora": True, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2}},
    "trained biases": {"bias": "lora_only"},
    "trained biases, q and v": {"bias": "lora_only", "target_modules": ["q_proj", "v_proj"]},
    "all biases": {"bias": "all", "target_modules": ["q_proj", "fc1"]},
    "lora_B's bias": {"lora_bias": True, "use_rslora": True},
    "great rank": {"r": 90, "target_modules": ["q_proj", "k_proj", "v_proj"]},
}
# The epsilons of the layer norms differ.
NEAR = 5e-5
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]


class Case:
    """A base and its adapter on disk, and what PEFT's model answers to the golden pictures of a package."""

    def __init__(self, folder: Path, backbone: Backbone, weights: Path, **base: Any) -> None:
        self.folder, self.backbone, self.weights = folder, backbone, weights
        model = twin(backbone, **base)
        self.base = save(model, folder / "base")
        self.model = model

    def tuned(self, targets: list[str], **options: Any) -> Case:
        self.peft = tune(self.model, self.folder / "peft", targets, **options)
        return self

    def imported(self, **changes: Any) -> Report:
        request = {
            "source": str(self.folder / "peft"), "out": self.folder / "out", "task": "defect", "backbone": "test_vit",
            "weights": self.weights, "base": str(self.base),
        }  # fmt: skip
        return import_adapter(Request(**{**request, **changes}))

    def rows(self) -> Tensor:
        package = read_package(self.folder / "out")
        own = package.manifest.preprocessing
        return own.normalize(torch.stack([own.prepare(shot) for shot in package.golden.pictures]))

    def check(self) -> None:
        """PEFT on transformers, the golden logits, and PEFT on timm with the package: all the same."""
        golden, rows = read_package(self.folder / "out").golden.logits, self.rows()
        scale = float(golden.abs().max())
        assert float((logits_of(self.peft, rows) - golden).abs().max()) < 1e-6 * scale
        with still(), self.peft.disable_adapter():  # type: ignore[operator] # PEFT's model has it
            assert float((logits_of(self.peft, rows) - golden).abs().max()) > 1e-2 * scale
        with still():
            ours = PeftModel.from_pretrained(merged_model(self.backbone, 3, seed=9), str(self.folder / "out")).eval()
        if read_package(self.folder / "out").lora is not None:
            assert float((logits_of(ours, rows) - golden).abs().max()) < 1e-4 * scale


@pytest.fixture
def case(vit: Backbone, weights: Path, tmp_path: Path) -> Case:
    return Case(tmp_path, vit, weights)


@pytest.mark.parametrize("targets", [*SUBSETS, ["o_proj"], ["fc1", "fc2"], ALL], ids="+".join)
def test_every_set_of_modules_answers_the_same(targets: list[str], case: Case) -> None:
    report = case.tuned(targets).imported()
    assert report.difference < NEAR
    assert {edit.kind for edit in report.manifest.edits} == {"lora"}
    assert report.manifest.labels == ["kind-0", "kind-1", "kind-2"]
    case.check()


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "great rank"])
def test_every_option_answers_the_same(name: str, case: Case) -> None:
    report = case.tuned(ALL, **OPTIONS[name]).imported()
    assert report.difference < NEAR
    case.check()


def test_ranks_beyond_the_formats_make_replaced_segments(case: Case) -> None:
    report = case.tuned(ALL, **OPTIONS["great rank"]).imported()
    assert {edit.kind for edit in report.manifest.edits} == {"replace"}
    assert report.difference < NEAR


def test_keys_that_were_not_trained_stay_the_backbones_to_the_bit(case: Case) -> None:
    case.tuned(["q_proj", "v_proj"], rank_pattern={"q_proj": 3}).imported()
    adapter = fitted(case.folder / "out", case.backbone)
    for name, delta in adapter.deltas.items():
        assert name.endswith("attn.qkv")
        assert delta.a.shape[0] == 3 + 4
        out = delta.b.shape[0] // 3
        assert not delta.b[out : 2 * out].any()
        assert delta.b[:out, :3].any()
        assert not delta.b[:out, 3:].any()


@pytest.mark.parametrize("options", [{}, OPTIONS["patterns"], OPTIONS["rslora and patterns"]])
def test_adapters_with_the_names_of_transformers_4(options: dict[str, Any], case: Case) -> None:
    case.tuned(
        [f"vit.layers.{i}.{name}" for i in (0, 1) for name in ("attention.q_proj", "attention.v_proj", "mlp.fc2")],
        **{
            **options,
            "rank_pattern": {"vit.layers.1.attention.q_proj": 2},
            "alpha_pattern": {"vit.layers.0.mlp.fc2": 9},
        },
    )
    rewrite(case.folder / "peft", OLD_NAMES)
    assert any(
        "encoder.layer.0.output.dense" in name for name in load_file(case.folder / "peft/adapter_model.safetensors")
    )
    report = case.imported()
    assert report.difference < NEAR
    case.check()


@pytest.mark.parametrize(
    ("theirs", "place"),
    [
        ("vit.encoder.layer.3.attention.attention.query", Place("blocks.3.attn.qkv", "q")),
        ("encoder.layer.3.attention.attention.value.bias", Place("blocks.3.attn.qkv.bias", "v")),
        ("vit.layers.11.attention.k_proj.weight", Place("blocks.11.attn.qkv.weight", "k")),
        ("layers.0.attention.o_proj", Place("blocks.0.attn.proj")),
        ("vit.encoder.layer.0.attention.output.dense.weight", Place("blocks.0.attn.proj.weight")),
        ("vit.encoder.layer.0.output.dense", Place("blocks.0.mlp.fc2")),
        ("vit.encoder.layer.0.intermediate.dense", Place("blocks.0.mlp.fc1")),
        ("vit.embeddings.patch_embeddings.projection", Place("patch_embed.proj")),
        ("embeddings.cls_token", Place("cls_token")),
        ("vit.layernorm.bias", Place("norm.bias")),
        ("vit.layers.2.layernorm_after.weight", Place("blocks.2.norm2.weight")),
        ("blocks.0.attn.qkv", None),
        ("vit.layers.0.attention", None),
        ("vit.layers.x.mlp.fc1", None),
        ("layers.0.blocks.1.attn.qkv", None),
    ],
)
def test_names_of_both_generations(theirs: str, place: Place | None) -> None:
    assert in_timm(theirs) == place


def test_adapter_names_in_keys_are_taken_off(case: Case) -> None:
    case.tuned(["q_proj", "v_proj"])
    rewrite(
        case.folder / "peft",
        {r"lora_([AB])\.": r"lora_\1.mine.", r"model\.classifier\.": "model.classifier.modules_to_save.mine."},
    )
    assert case.imported().difference < NEAR
    case.check()


def test_a_pickled_adapter_of_tensors_alone(case: Case) -> None:
    case.tuned(["q_proj", "v_proj"])
    file = case.folder / "peft" / "adapter_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    assert case.imported().difference < NEAR
    case.check()


def test_swapped_queries_and_keys_are_caught_by_the_check(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    swap = {"q": "k", "k": "q"}

    def wrong(name: str) -> Place | None:
        place = in_timm(name)
        return place and Place(place.name, swap.get(place.part, place.part))

    monkeypatch.setattr(trained, "in_timm", wrong)
    case.tuned(["q_proj", "v_proj"])
    with pytest.raises(IncompatibleError, match="answers otherwise than the original") as caught:
        case.imported()
    assert float(caught.value.value) > 1e-2
    assert not (case.folder / "out").exists()
    assert not list(case.folder.glob(".out*"))


def test_a_forgotten_scale_is_caught_by_the_check(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.tuned(["q_proj", "v_proj"])
    monkeypatch.setattr("lensmount_adapters.importing.peft_file.LoraConfig.scale", lambda *_: 1.0)
    with pytest.raises(IncompatibleError, match="answers otherwise"):
        case.imported()


def test_a_base_of_other_weights_is_refused(case: Case, tmp_path: Path) -> None:
    case.tuned(["q_proj"])
    other = save(twin(random_backbone("test_vit", seed=5)), tmp_path / "other")
    with pytest.raises(IncompatibleError, match="other weights than test_vit") as caught:
        case.imported(base=str(other))
    assert "--weights" in caught.value.fix
    assert caught.value.field.startswith("base: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_attention_heads", 4), ("hidden_act", "gelu_new"), ("patch_size", 8), ("layer_norm_eps", 0.1)],
)
def test_a_config_of_another_model_is_refused(name: str, value: object, case: Case) -> None:
    case.tuned(["q_proj"])
    config = case.base / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), name: value}))
    with pytest.raises((IncompatibleError, InvalidInputError)) as caught:
        case.imported()
    assert caught.value.field == f"config.json: {name}"
    assert caught.value.value == str(value)


def test_without_a_classifier_the_bases_own_runs(case: Case) -> None:
    case.tuned(["q_proj", "v_proj"], modules_to_save=None)
    report = case.imported()
    assert report.difference < NEAR
    assert torch.equal(
        fitted(case.folder / "out", case.backbone).head.state_dict()["weight"],
        case.peft.state_dict()["base_model.model.classifier.weight"],
    )


def test_without_any_classifier_it_is_refused(case: Case) -> None:
    case.tuned(["q_proj"], modules_to_save=None)
    file = case.base / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if not n.startswith("classifier")}, file, {"format": "pt"})
    with pytest.raises(InvalidInputError, match="the classifier is missing") as caught:
        case.imported()
    assert caught.value.field == "head.weight"
    assert "modules_to_save" in caught.value.fix


def test_a_bare_vit_model_is_a_base_too(case: Case) -> None:
    case.tuned(["q_proj", "fc2"])
    rewrite(case.base, {r"^vit\.": ""}, "model.safetensors")
    file = case.base / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if not n.startswith("classifier")}, file, {"format": "pt"})
    assert case.imported().difference < NEAR
    case.check()


def test_an_epsilon_of_its_own_is_close_enough(case: Case) -> None:
    assert json.loads((case.base / "config.json").read_text())["layer_norm_eps"] == 1e-12
    assert 0 < case.tuned(["q_proj"]).imported().difference < NEAR


def test_the_base_can_become_the_backbones_weights(case: Case, tmp_path: Path) -> None:
    case.tuned(["q_proj", "v_proj"])
    made = tmp_path / "made.safetensors"
    report = case.imported(weights=None, save_weights=made)
    assert report.manifest.backbone.fingerprint == case.backbone.fingerprint
    assert any(f"--weights {made}" in note for note in report.notes)
    with pytest.raises(InvalidInputError, match="the file exists"):
        case.imported(out=tmp_path / "again", save_weights=made)


def test_the_base_named_by_peft_is_taken(case: Case) -> None:
    case.tuned(["q_proj"])
    config = case.folder / "peft" / "adapter_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    with pytest.raises(InvalidInputError, match="does not name the base") as caught:
        case.imported(base="")
    assert "--base" in caught.value.fix
    config.write_text(json.dumps({**settings, "base_model_name_or_path": str(case.base)}))
    assert case.imported(base="").difference < NEAR


def test_provenance_tells_the_origin(case: Case) -> None:
    settings = case.tuned(["q_proj"]).imported().manifest.provenance.settings
    assert settings["source"] == str(case.folder / "peft")
    assert settings["base"] == str(case.base)
    assert settings["importer"] == "lensmount adapters import"
    assert len(str(settings["base_hash"])) == 64


def test_a_backbone_that_is_no_vit_is_refused(case: Case, tmp_path: Path) -> None:
    case.tuned(["q_proj"])
    other = random_backbone("test_resnet")
    save_file(dict(other.model.state_dict()), tmp_path / "resnet.safetensors")
    with pytest.raises(IncompatibleError, match="the source is a ViT") as caught:
        case.imported(backbone="test_resnet", weights=tmp_path / "resnet.safetensors")
    assert (caught.value.field, caught.value.value) == ("backbone", "test_resnet")


def test_lora_on_the_classifier_is_refused(case: Case) -> None:
    case.tuned(["q_proj", "classifier"], modules_to_save=None)
    with pytest.raises(InvalidInputError, match="no such module") as caught:
        case.imported()
    assert (caught.value.field, caught.value.value) == ("target_modules", "classifier")
    assert "modules_to_save" in caught.value.fix


@pytest.mark.parametrize(("kind", "shape"), [("A", (4, 63)), ("B", (63, 4)), ("B", (192, 4))])
def test_a_part_that_does_not_fit_its_third_is_refused(kind: str, shape: tuple[int, ...], case: Case) -> None:
    case.tuned(["q_proj", "v_proj"])
    file, name = case.folder / "peft" / "adapter_model.safetensors", "vit.layers.0.attention.q_proj"
    tensors = {**load_file(file), f"base_model.model.{name}.lora_{kind}.weight": torch.ones(shape)}
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InvalidInputError, match="A and B of shapes") as caught:
        case.imported()
    assert caught.value.field == name
    assert str(shape) in caught.value.value
    assert caught.value.fix


def test_a_module_that_timm_lacks_is_refused(case: Case) -> None:
    case.tuned(["q_proj"])
    rewrite(case.folder / "peft", {r"layers\.0\.attention\.q_proj": "layers.0.attention.gate"})
    with pytest.raises(InvalidInputError, match="timm's ViT has no such module") as caught:
        case.imported()
    assert (caught.value.field, caught.value.value) == ("target_modules", "vit.layers.0.attention.gate")
