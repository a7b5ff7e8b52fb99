"""What a package says beside its weights: the labels, the preprocessing, the backbone, as the source tells them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from timm.data import resolve_model_data_config

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.importing.source import PROCESSOR_FILE, SETTINGS_FILE, Source
from lensmount_adapters.importing.vit import DEFAULTS
from lensmount_adapters.manifest import invalid
from lensmount_adapters.preprocessing import Preprocessing

# Models of the Hub whose timm twin is known; what differs after all is found by comparing the weights.
TWINS = {
    "google/vit-base-patch16-224-in21k": "vit_base_patch16_224.orig_in21k",
    "google/vit-base-patch16-224": "vit_base_patch16_224.orig_in21k_ft_in1k",
    "google/vit-base-patch16-384": "vit_base_patch16_384.orig_in21k_ft_in1k",
    "google/vit-base-patch32-224-in21k": "vit_base_patch32_224.orig_in21k",
    "google/vit-large-patch16-224-in21k": "vit_large_patch16_224.orig_in21k",
    "google/vit-large-patch32-224-in21k": "vit_large_patch32_224.orig_in21k",
    "google/vit-large-patch32-384": "vit_large_patch32_384.orig_in21k_ft_in1k",
    "google/vit-huge-patch14-224-in21k": "vit_huge_patch14_224.orig_in21k",
    "WinKawaks/vit-tiny-patch16-224": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "WinKawaks/vit-small-patch16-224": "vit_small_patch16_224.augreg_in21k_ft_in1k",
}
SIZES = {
    (192, 12, 3, 768): "tiny",
    (384, 12, 6, 1536): "small",
    (768, 12, 12, 3072): "base",
    (1024, 24, 16, 4096): "large",
    (1280, 32, 16, 5120): "huge",
}
# Pillow's filters, as the processors of transformers number them.
FILTERS = {2: "bilinear", 3: "bicubic"}
OF_TIMM = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
# What ViTImageProcessor does unless it is told otherwise.
PROCESSOR: Mapping[str, Any] = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def guess_backbone(source: Source, base: Source | None) -> str:
    """Timm's name of the backbone, from what the files say. Raises InvalidInputError when they do not."""
    named = source.settings.get("architecture")
    if isinstance(named, str):
        tag = source.settings.get("pretrained_cfg", {})
        return f"{named}.{tag['tag']}" if isinstance(tag, dict) and tag.get("tag") else named
    trained_on = source.peft.base if source.peft else ""
    if trained_on in TWINS:
        return TWINS[trained_on]
    if trained_on.startswith("timm/"):
        return trained_on.removeprefix("timm/")
    settings = (base or source).settings
    if settings.get("model_type") == "vit":
        sized = {**DEFAULTS, **settings}
        form = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        size = SIZES.get(tuple(sized[name] for name in form))
        if size:
            return f"vit_{size}_patch{sized['patch_size']}_{sized['image_size']}"
    fix = "give --backbone NAME (timm's name), and --weights FILE if it is not timm's own"
    message = "the files do not say which backbone it was trained on"
    raise InvalidInputError(message, field="backbone", value=trained_on, fix=fix)


def choose_labels(given: Sequence[str], settings: Sequence[Mapping[str, Any]], count: int) -> list[str]:
    """The labels in the order of the logits: as given, else as the first of these configs that has `count`.

    A label that comes twice gets its index behind it. Raises InvalidInputError when nobody names `count` labels.
    """
    if given:
        if len(given) != count:
            message, fix = f"the classifier has {count} outputs", f"give {count} labels, in the order of its outputs"
            raise InvalidInputError(message, field="labels", value=len(given), fix=fix)
        return list(given)
    for config in settings:
        found = _labels_of(config)
        if len(found) == count:
            counts = Counter(found)
            return [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(found)]
    fix = f"give --labels with {count} names, in the order of the classifier's outputs: --labels ok,scratch"
    raise InvalidInputError("the files do not name the labels", field="labels", fix=fix)


def choose_kind(settings: Sequence[Mapping[str, Any]]) -> str:
    """single_label, unless a config says that labels go together."""
    several = any(config.get("problem_type") == "multi_label_classification" for config in settings)
    return "multi_label" if several else "single_label"


def choose_preprocessing(source: Source, base: Source | None, backbone: Backbone) -> tuple[Preprocessing, str]:
    """How pictures are prepared, and a sentence on where that comes from.

    Raises InvalidInputError for an image processor that can not be followed.
    """
    if not source.hugging_face:
        own = source.settings.get("pretrained_cfg")
        if not isinstance(own, dict):
            return backbone.preprocessing, "as timm's model has it"
        known = {**resolve_model_data_config(backbone.model), **{name: own[name] for name in OF_TIMM if own.get(name)}}
        return Preprocessing.from_timm(known), f"as {SETTINGS_FILE} says"
    config = source.processor or (base.processor if base else {})
    if not config:
        sized = {**PROCESSOR, "size": {"height": backbone.preprocessing.height, "width": backbone.preprocessing.width}}
        return from_processor(sized), f"no {PROCESSOR_FILE}: as ViTImageProcessor does by default"
    return from_processor({**PROCESSOR, **config}), f"as {PROCESSOR_FILE} says"


def from_processor(config: Mapping[str, Any]) -> Preprocessing:
    """Preprocessing of an image processor of transformers, all of its settings given.

    Raises InvalidInputError for a setting that can not be followed.
    """
    _check(config, "do_resize", config["do_resize"] is True)
    _check(config, "resample", config["resample"] in FILTERS)
    _check(config, "do_rescale", config["do_rescale"] is True)
    factor = config["rescale_factor"]
    _check(config, "rescale_factor", isinstance(factor, float) and abs(factor * 255 - 1) < 1e-4)
    normalised = config["do_normalize"] is True
    height, width, share, mode = _sides(config)
    try:
        return Preprocessing(
            height=height,
            width=width,
            interpolation=FILTERS[config["resample"]],
            crop_pct=share,
            crop_mode=mode,
            mean=config["image_mean"] if normalised else (0.0, 0.0, 0.0),
            std=config["image_std"] if normalised else (1.0, 1.0, 1.0),
        )
    except ValidationError as error:
        raise invalid(PROCESSOR_FILE, error) from error


def _check(config: Mapping[str, Any], name: str, followed: bool) -> None:
    if not followed:
        fix = "train with ViTImageProcessor's way of resizing, or import for a backbone with another preprocessing"
        raise InvalidInputError("not followed here", field=f"{PROCESSOR_FILE}: {name}", value=config[name], fix=fix)


def _sides(config: Mapping[str, Any]) -> tuple[Any, Any, float, Any]:
    """Height, width, share and mode of cropping, as `Preprocessing` has them."""
    given = config["size"]
    size = given if isinstance(given, dict) else {"height": given, "width": given}
    if not config["do_center_crop"]:
        _check(config, "size", {"height", "width"} <= size.keys())
        return size["height"], size["width"], 1.0, "squash"
    crop = config.get("crop_size")
    side: Any = crop.get("height") if isinstance(crop, dict) else crop
    square = not isinstance(crop, dict) or crop.get("width") == side
    shorter: Any = size.get("shortest_edge")
    fits = isinstance(side, int) and isinstance(shorter, int) and 0 < side <= shorter
    _check(config, "size", square and fits)
    return side, side, _share(side, shorter), "center"


def _share(crop: int, shorter: int) -> float:
    """The share that timm's rule, `floor(crop / share)`, makes `shorter` of again."""
    share = crop / shorter
    return share if math.floor(crop / share) == shorter else math.nextafter(share, 0)


def _labels_of(config: Mapping[str, Any]) -> list[str]:
    """The labels that a config of transformers' or of timm's names; empty when it names none."""
    by_index = config.get("id2label")
    if isinstance(by_index, dict):
        try:
            return [str(by_index[index]) for index in sorted(by_index, key=int)]
        except ValueError as error:
            fix = "give --labels"
            raise InvalidInputError("indices expected", field=f"{SETTINGS_FILE}: id2label", fix=fix) from error
    names = config.get("label_names")
    return [str(name) for name in names] if isinstance(names, list) else []
