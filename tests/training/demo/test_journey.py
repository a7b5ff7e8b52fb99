import itertools

from lensmount_training.demo.journey import journey
from lensmount_training.demo.plates import PITCH

PLATES, FRAMES = 4, 50


def ways() -> list[float]:
    xs = [pose.x for pose, _ in journey(PLATES, FRAMES)]
    return [after - before for before, after in itertools.pairwise(xs)]


def test_there_is_a_pose_for_every_frame_and_it_is_over_its_plate() -> None:
    poses = [pose for pose, _ in journey(PLATES, FRAMES)]
    assert len(poses) == PLATES * FRAMES
    at_rest = [poses[plate * FRAMES + FRAMES // 2].x for plate in range(PLATES)]
    for plate, x in enumerate(at_rest):
        assert abs(x - (plate + 0.5) * PITCH) < 20


def test_it_lingers_at_plates_and_hurries_between_them() -> None:
    steps = ways()
    own = [abs(steps[plate * FRAMES + FRAMES // 2]) for plate in range(PLATES)]
    between = [steps[plate * FRAMES - 1] for plate in range(1, PLATES)]
    assert min(between) > 10 * max(own)


def test_it_never_jumps() -> None:
    steps = ways()
    assert max(steps) < PITCH / 7
    assert max(abs(b - a) for a, b in itertools.pairwise(steps)) < PITCH / 20
