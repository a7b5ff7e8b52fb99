"""What a package says beside its weights, as the files of the source tell it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTImageProcessor

from factories import pictures
from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import create_model
from lensmount_adapters.importing.describing import (
    PROCESSOR,
    SIZES,
    TWINS,
    choose_labels,
    choose_preprocessing,
    from_processor,
    guess_backbone,
)
from lensmount_adapters.importing.peft_file import PeftFile
from lensmount_adapters.importing.source import Source
from lensmount_adapters.importing.vit import DEFAULTS
from lensmount_adapters.lora import LoraConfig


def source(base: str = "", *, hugging_face: bool = True, **files: Any) -> Source:
    config = LoraConfig(peft_type="LORA", r=1, lora_alpha=1)
    peft = PeftFile(config, {}, {}, (), base, "") if base else None
    return Source({}, files.get("settings", {}), files.get("processor", {}), peft, hugging_face, "0" * 64)


PROCESSORS: dict[str, dict[str, Any]] = {
    "default": {},
    "bicubic, ImageNet": {"resample": 3, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    "crop": {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
    "oblong": {"size": {"height": 160, "width": 224}},
    "not normalised": {"do_normalize": False},
}


@pytest.mark.parametrize("settings", PROCESSORS)
@pytest.mark.parametrize("size", [(300, 500), (500, 300), (100, 90)])
def test_pictures_become_what_transformers_makes_of_them(settings: str, size: tuple[int, int]) -> None:
    given = PROCESSORS[settings]
    processor = ViTImageProcessor(**given)
    own = from_processor({**PROCESSOR, **given})
    for shot in pictures(3, size=size):
        theirs = processor(Image.fromarray(shot), return_tensors="pt")["pixel_values"]
        ours = own.normalize(own.prepare(shot)[None])
        assert theirs.shape == ours.shape
        # Rounding to uint8 may go either way.
        assert float((theirs - ours).abs().max()) <= 1.1 / 255 / min(own.std)
        assert float((theirs - ours).abs().mean()) < 0.2 / 255 / min(own.std)


def test_what_a_processor_saves_is_what_is_read() -> None:
    saved = ViTImageProcessor(size={"height": 160, "width": 160}).to_dict()
    assert from_processor({**PROCESSOR, **saved}).crop_mode == "squash"


def test_sides_of_old_processors() -> None:
    assert from_processor({**PROCESSOR, "size": 160}).height == 160
    cropped = from_processor({**PROCESSOR, "size": {"shortest_edge": 248}, "do_center_crop": True, "crop_size": 224})
    assert cropped.resized(500, 700)[0] == 248


@pytest.mark.parametrize("shorter", range(224, 500, 7))
def test_every_crop_resizes_to_its_shorter_side(shorter: int) -> None:
    own = from_processor({**PROCESSOR, "size": {"shortest_edge": shorter}, "do_center_crop": True, "crop_size": 224})
    assert min(own.resized(1000, 1300)) == shorter


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"resample": 0}, "resample"),
        ({"do_rescale": False}, "do_rescale"),
        ({"rescale_factor": 1 / 128}, "rescale_factor"),
        ({"size": {"shortest_edge": 224}}, "size"),
        ({"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": 224}, "size"),
        ({"size": {"shortest_edge": 200}, "do_center_crop": True, "crop_size": 224}, "size"),
        ({"size": {"height": 9, "width": 9}}, "height"),
        ({"image_mean": [0.5]}, "mean.1"),
        ({"image_std": [0.0, 1.0, 1.0]}, "std.0"),
    ],
)
def test_processors_that_are_not_followed(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        from_processor({**PROCESSOR, **settings})
    assert caught.value.field == f"preprocessor_config.json: {field}"
    assert caught.value.fix


def test_the_adapters_processor_goes_before_the_bases(vit: Backbone) -> None:
    small, large = ({"size": {"height": side, "width": side}} for side in (160, 224))
    base = source(processor=large)
    assert choose_preprocessing(source("x", processor=small), base, vit)[0].height == 160
    assert choose_preprocessing(source("x"), base, vit)[0].height == 224
    own, told = choose_preprocessing(source("x"), source(), vit)
    assert (own.height, own.crop_mode, own.interpolation) == (160, "squash", "bilinear")
    assert "no preprocessor_config.json" in told
    assert choose_preprocessing(source("x", hugging_face=False), None, vit)[0] == vit.preprocessing


@pytest.mark.parametrize("name", sorted(TWINS.values()))
def test_every_twin_is_a_model_of_timms(name: str) -> None:
    with torch.device("meta"):
        model: Any = create_model(name)
    size = (model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads, model.blocks[0].mlp.fc1.out_features)
    assert size in SIZES


def test_the_defaults_are_those_of_transformers() -> None:
    config = ViTConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS
    processor = ViTImageProcessor().to_dict()
    for name, value in PROCESSOR.items():
        if name == "do_center_crop":
            assert not processor.get(name)
        elif isinstance(value, list | float):
            assert np.allclose(processor[name], value)
        else:
            assert processor[name] == value, name


@pytest.mark.parametrize(
    ("given", "base", "name"),
    [
        (source("google/vit-base-patch16-224-in21k"), None, "vit_base_patch16_224.orig_in21k"),
        (source("timm/resnet18.a1_in1k", hugging_face=False), None, "resnet18.a1_in1k"),
        (source("my/vit"), source(settings={"model_type": "vit"}), "vit_base_patch16_224"),
        (
            source(
                settings={"model_type": "vit", "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
            ),
            None,
            "vit_tiny_patch16_224",
        ),
        (source(settings={"architecture": "resnet18"}, hugging_face=False), None, "resnet18"),
        (
            source(settings={"architecture": "resnet18", "pretrained_cfg": {"tag": "a1_in1k"}}, hugging_face=False),
            None,
            "resnet18.a1_in1k",
        ),
    ],
)
def test_the_backbone_that_files_tell(given: Source, base: Source | None, name: str) -> None:
    assert guess_backbone(given, base) == name


@pytest.mark.parametrize("given", [source("somebody/model", hugging_face=False), source(hugging_face=False)])
def test_files_that_do_not_tell_it(given: Source) -> None:
    with pytest.raises(InvalidInputError, match="which backbone") as caught:
        guess_backbone(given, None)
    assert (caught.value.field, "--backbone NAME" in caught.value.fix) == ("backbone", True)


def test_labels_in_the_order_of_their_indices() -> None:
    config = {"id2label": {str(i): f"l{i}" for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}}
    assert choose_labels((), [{}, config], 11) == [f"l{i}" for i in range(11)]


def test_labels_of_a_config_with_another_count_are_passed_over() -> None:
    configs: list[dict[str, Any]] = [{"id2label": {"0": "a"}}, {"label_names": ["x", "y"]}]
    assert choose_labels((), configs, 2) == ["x", "y"]
    with pytest.raises(InvalidInputError, match="do not name the labels"):
        choose_labels((), configs, 3)


def test_indices_that_are_none() -> None:
    with pytest.raises(InvalidInputError, match="indices expected"):
        choose_labels((), [{"id2label": {"a": "b"}}], 1)
