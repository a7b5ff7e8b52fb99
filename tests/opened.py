"""The pixels of pictures that are here."""

from __future__ import annotations

from lensmount_adapters.pictures import Pixels
from lensmount_server.frames import Picture, Still
from lensmount_server.video.picture import DecodedPicture


def pixels_of(picture: Picture) -> Pixels:
    """uint8 RGB (height, width, 3) of a picture that did not stay in a worker."""
    assert isinstance(picture, Still | DecodedPicture)
    return picture.pixels
