from pathlib import Path

import pytest

from lensmount_training.demo.boxes import Box
from lensmount_training.demo.camera import Pose, locate
from lensmount_training.demo.truth import ClipTruth, FrameTruth, defect_seen, model_view, read_truth, write_truth

# 360 × 0.875 = 315, so the view of a 640 × 360 frame goes from 162.5 to 477.5 and from 22.5 to 337.5.
VIEW = Box(162.5, 22.5, 477.5, 337.5)


def test_the_model_sees_the_middle_square() -> None:
    assert model_view(360, 640) == VIEW
    assert model_view(640, 360) == Box(22.5, 162.5, 337.5, 477.5)


@pytest.mark.parametrize(
    ("box", "label"),
    [
        (Box(300, 100, 340, 140), "hole"),
        (Box(162.5 - 20, 100, 162.5 + 20, 140), "hole"),
        (Box(162.5 - 21, 100, 162.5 + 19, 140), "ok"),
        (Box(477.5 - 20, 100, 477.5 + 20, 140), "hole"),
        (Box(477.5 - 19, 100, 477.5 + 21, 140), "ok"),
        (Box(300, 337.5 - 20, 340, 337.5 + 20), "hole"),
        (Box(300, 337.5 - 19, 340, 337.5 + 21), "ok"),
        # Inside by two thirds in both directions: four ninths of its area.
        (Box(162.5 - 10, 22.5 - 10, 162.5 + 20, 22.5 + 20), "ok"),
        (Box(500, 100, 540, 140), "ok"),
    ],
)
def test_a_defect_counts_from_half_of_its_box_on(box: Box, label: str) -> None:
    assert defect_seen({box: "hole"}, 360, 640) == label


def test_of_two_defects_the_one_that_is_fuller_in_view_counts() -> None:
    half, most = Box(142.5, 100, 182.5, 140), Box(460, 100, 480, 140)
    assert defect_seen({half: "stain", most: "scratch"}, 360, 640) == "scratch"
    assert defect_seen({most: "scratch", half: "stain"}, 360, 640) == "scratch"


def test_nothing_in_view_is_ok() -> None:
    assert defect_seen({}, 360, 640) == "ok"


def test_boxes_are_followed_through_the_camera() -> None:
    box = Box(1000, 190, 1020, 210)
    assert locate(box, Pose(1010, 200), 360, 640) == Box(310, 170, 330, 190)
    assert locate(box, Pose(1110, 200, zoom=2.0), 360, 640) == Box(100, 160, 140, 200)
    turned = locate(box, Pose(1010, 250, turn=90), 360, 640)
    assert (turned.left, turned.top, turned.right, turned.bottom) == pytest.approx((260, 170, 280, 190))


def test_shares_of_boxes() -> None:
    box = Box(0, 0, 10, 10)
    assert box.share_inside(box) == 1
    assert box.share_inside(Box(5, 5, 20, 20)) == 0.25
    assert box.share_inside(Box(10, 0, 20, 10)) == 0
    assert box.share_inside(Box(20, 20, 30, 30)) == 0
    assert Box(5, 5, 5, 9).share_inside(box) == 0


def test_a_truth_comes_back_from_its_file(tmp_path: Path) -> None:
    truth = ClipTruth((FrameTruth("brick", "ok"), FrameTruth("gravel", "hole")))
    write_truth(truth, tmp_path / "truth.json")
    assert read_truth(tmp_path / "truth.json") == truth
    assert truth.labels("surface") == ("brick", "gravel")
    assert truth.labels("defect") == ("ok", "hole")
