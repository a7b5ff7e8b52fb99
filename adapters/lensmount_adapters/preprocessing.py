"""The one way from a picture to what the backbone sees, for training and serving alike.

It follows timm's evaluation transform (`timm.data.create_transform`): resize the shorter
side to size / crop_pct, crop the centre, scale to [0, 1], subtract the mean, divide by the
deviation. Resizing is antialiased and rounds to uint8, as Pillow's does.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from torch.nn import functional as F

from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import MAX_PIXELS, Pixels

Triple = tuple[float, float, float]
Deviation = Annotated[float, Field(gt=0)]


class Preprocessing(BaseModel):
    """Sizes in pixels; mean and deviation per RGB channel on the scale [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    height: int = Field(ge=32, le=1024)
    width: int = Field(ge=32, le=1024)
    interpolation: Literal["bicubic", "bilinear"]
    crop_pct: float = Field(ge=0.25, le=1)
    crop_mode: Literal["center", "squash"]
    mean: Triple
    std: tuple[Deviation, Deviation, Deviation]

    @property
    def size(self) -> str:
        """Width and height of what the backbone sees, as "224x224"."""
        return f"{self.width}x{self.height}"

    @classmethod
    def from_timm(cls, config: dict[str, Any]) -> Preprocessing:
        """Take over timm's data config (`timm.data.resolve_model_data_config`).

        Raises InvalidInputError for an interpolation, crop or size that is not followed here.
        """
        _, height, width = config["input_size"]
        own = {name: config[name] for name in ("interpolation", "crop_pct", "crop_mode", "mean", "std")}
        try:
            return cls(height=height, width=width, **own)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = f"preprocessing.{first['loc'][0]}"
            fix = "use a backbone with another preprocessing; this one can not be followed"
            raise InvalidInputError(first["msg"], field=field, value=first["input"], fix=fix) from error

    def prepare(self, pixels: Pixels) -> Tensor:
        """Resize and crop uint8 RGB (h, w, 3) to uint8 (3, `height`, `width`).

        Raises InvalidInputError for a strip so narrow that it can not be resized in reasonable memory.
        """
        height, width = self.resized(pixels.shape[0], pixels.shape[1])
        writable = np.require(pixels, requirements=["C", "W"])
        picture = torch.from_numpy(writable).permute(2, 0, 1).unsqueeze(0)
        if (height, width) != tuple(picture.shape[2:]):
            picture = F.interpolate(picture, (height, width), mode=self.interpolation, antialias=True)
        top, left = self.corner(height, width)
        return picture[0, :, top : top + self.height, left : left + self.width].contiguous()

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which a picture of that size is resized before it is cropped.

        Raises InvalidInputError for a strip so narrow that it can not be resized in reasonable memory.
        """
        new_height, new_width = self._resized(height, width)
        if new_height * new_width > MAX_PIXELS:
            fix = "crop it first, to sides that differ less"
            raise InvalidInputError("the picture is too narrow", field="picture", value=f"{width}x{height}", fix=fix)
        return new_height, new_width

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """Top and left of the centre that is kept of a resized picture of that size."""
        return max(round((height - self.height) / 2), 0), max(round((width - self.width) / 2), 0)

    def normalize(self, batch: Tensor) -> Tensor:
        """uint8 (rows, 3, height, width) to float32 of the same shape, as the backbone expects it."""
        mean, std = _channels(self.mean, batch.device), _channels(self.std, batch.device)
        return batch.float().div_(255).sub_(mean).div_(std)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        target_height = math.floor(self.height / self.crop_pct)
        target_width = math.floor(self.width / self.crop_pct)
        if self.crop_mode == "squash":
            return target_height, target_width
        if self.height == self.width:
            return _shorter_side(height, width, target_height)
        ratio = max(target_height / height, target_width / width)
        return round(height * ratio), round(width * ratio)


@lru_cache(maxsize=64)
def _channels(values: Triple, device: torch.device) -> Tensor:
    """One value a channel, (1, 3, 1, 1), kept on the device: a copy to a GPU would wait for all that computes there."""
    with torch.inference_mode(mode=False):  # whoever trains uses it too
        return torch.tensor(values, device=device).view(1, 3, 1, 1)


def _shorter_side(height: int, width: int, size: int) -> tuple[int, int]:
    if width <= height:
        return int(size * height / width), size
    return size, int(size * width / height)
