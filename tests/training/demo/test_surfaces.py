import numpy as np
import pytest
from numpy.typing import NDArray

from lensmount.errors import NotFoundError
from lensmount_training.demo import surfaces
from lensmount_training.demo.surfaces import SURFACES, Part, cut, region


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph that is black where pictures are cut, white where the clip is cut, grey between."""
    marked = np.full((512, 512), 128, np.uint8)
    marked[:, slice(*Part.PICTURES.value)] = 0
    marked[:, slice(*Part.CLIP.value)] = 255
    monkeypatch.setattr(surfaces, "_photograph", lambda _: marked)


@pytest.mark.parametrize("surface", SURFACES)
def test_photographs_come_with_the_wheel_and_fill_the_range_of_greys(surface: str) -> None:
    whole = surfaces._photograph(surface)
    assert whole.shape == (512, 512)
    assert whole.std() > 20


def test_the_parts_do_not_touch() -> None:
    (_, pictures_end), (clip_first, clip_end) = Part.PICTURES.value, Part.CLIP.value
    assert pictures_end < clip_first < clip_end == 512


@pytest.mark.parametrize(("part", "tone"), [(Part.PICTURES, 0), (Part.CLIP, 2)])
def test_a_piece_shows_nothing_of_the_other_part(marked: None, part: Part, tone: int) -> None:
    for surface in SURFACES:
        expected = np.array(surfaces._TONES[surface][tone], np.float32)
        for seed in range(40):
            piece = cut(surface, part, 400, 470, np.random.default_rng(seed))
            assert np.abs(piece - expected).max() < 1


def test_a_piece_is_decided_by_its_seed() -> None:
    def piece(seed: int) -> NDArray[np.float32]:
        return cut("grass", Part.CLIP, 60, 80, np.random.default_rng(seed))

    assert piece(1).shape == (60, 80, 3)
    assert np.array_equal(piece(1), piece(1))
    assert not np.array_equal(piece(1), piece(2))


def test_a_surface_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(NotFoundError, match=r"marble.*brick, grass, gravel"):
        region("marble", Part.CLIP)
