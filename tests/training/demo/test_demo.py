"""`lensmount demo` as a user runs it: a process, a real server, a real stream, a swap on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import pytest
from click.testing import CliRunner
from safetensors.torch import save_file

from factories import random_backbone
from lensmount import Client
from lensmount.cli import cli
from lensmount_training.demo.clip import ClipSettings, write_clip
from lensmount_training.demo.pictures import PictureSettings, write_pictures
from lensmount_training.demo.server import Served, started_server
from triton_server import TritonServer, needs_triton

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"


def demo(*options: str | Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "lensmount", "demo", "--json", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-4000:]
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def frames_of(video: Path) -> int:
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def size_of(video: Path) -> tuple[int, int]:
    with av.open(str(video)) as container:
        return container.streams.video[0].width, container.streams.video[0].height


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_the_second_version_is_better_and_no_frame_is_lost(tmp_path: Path) -> None:
    outcome = demo("--out", tmp_path / "demo")

    frames = outcome["frames"]
    assert frames == frames_of(tmp_path / "demo" / "clip.mp4") == frames_of(tmp_path / "demo" / "demo.mp4")
    assert outcome["lost"] == 0
    assert outcome["results_per_task"] == {"defect": frames, "surface": frames}
    assert sum(outcome["frames_per_version"]["defect"].values()) == frames
    assert min(outcome["frames_per_version"]["defect"].values()) > frames / 5
    assert outcome["trunk_passes_per_frame"] == pytest.approx(1.0)
    assert outcome["accuracy"]["defect"]["2"] >= 0.85
    assert outcome["accuracy"]["defect"]["2"] >= outcome["accuracy"]["defect"]["1"] + 0.08
    assert outcome["accuracy"]["surface"]["1"] >= 0.9
    assert outcome["swap_ms"] > 0
    assert outcome["seconds"] > 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str | Path]:
    """Options for a backbone that needs no time: what is shown here is the path, not the accuracy."""
    weights = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(random_backbone("test_vit").model.state_dict(), weights)
    return "--backbone", "test_vit", "--weights", weights


@pytest.fixture(scope="module")
def own_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("own")
    pictures = write_pictures(folder / "pictures", PictureSettings(per_defect=12, per_surface=12))
    clip = write_clip(folder / "clip", ClipSettings(rounds=2, frames_per_plate=12, b_frames=2))
    return pictures.surface, clip.video


@pytest.mark.slow
def test_own_pictures_and_clip(tmp_path: Path, tiny: Sequence[str | Path], own_files: tuple[Path, Path]) -> None:
    data, clip = own_files

    outcome = demo("--out", tmp_path / "demo", *tiny, "--data", data, "--task", "floor", "--clip", clip)

    assert outcome["frames"] == frames_of(clip)
    assert size_of(tmp_path / "demo" / "demo.mp4") == size_of(clip) == (640, 360)
    assert outcome["lost"] == 0
    assert outcome["accuracy"] == {}
    assert set(outcome["frames_per_version"]["floor"]) == {"1", "2"}


@pytest.mark.slow
def test_own_pictures_and_source(tmp_path: Path, tiny: Sequence[str | Path], own_files: tuple[Path, Path]) -> None:
    data, clip = own_files
    options = (*tiny, "--data", data, "--task", "floor", "--source", clip, "--seconds", "6")

    outcome = demo("--out", tmp_path / "demo", *options)

    assert outcome["frames"] > 20
    assert outcome["results_per_task"]["floor"] > 20
    assert set(outcome["frames_per_version"]["floor"]) == {"1", "2"}


@pytest.mark.slow
@pytest.mark.triton
def test_on_a_triton(tmp_path: Path, tiny: Sequence[str | Path], own_files: tuple[Path, Path]) -> None:
    needs_triton()
    data, clip = own_files
    exported = CliRunner().invoke(cli, ["export", "triton", *map(str, (tmp_path / "models", *tiny))])
    assert exported.exit_code == 0, exported.stderr
    with TritonServer(tmp_path / "models", tmp_path) as triton:
        computed = ("--backend", "triton", "--triton-url", triton.url)
        options = (*tiny, "--data", data, "--task", "floor", "--clip", clip, *computed)

        outcome = demo("--out", tmp_path / "demo", *options)

    assert outcome["frames"] == frames_of(clip)
    assert outcome["lost"] == 0
    assert set(outcome["frames_per_version"]["floor"]) == {"1", "2"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_vit_on_circuit_boards_and_materials(tmp_path: Path) -> None:
    weights = DATA / "vit_tiny_patch16_224.safetensors"
    if not weights.exists():
        pytest.skip(f"no real data at {DATA}")
    few = [
        some_of(DATA / "deeppcb_patches", tmp_path / "boards", ("copper", "open", "short"), 24),
        some_of(DATA / "trashnet_mini", tmp_path / "waste", ("cardboard", "glass", "trash"), 12),
    ]
    outcome = demo(
        *("--out", tmp_path / "demo", "--backbone", "vit_tiny_patch16_224", "--weights", weights),
        *("--data", few[0], "--task", "defect", "--data", few[1], "--task", "material"),
        *("--clip", DATA / "clips" / "bottle_h265_gop30_b3.mp4"),
    )

    assert outcome["frames"] == 300
    assert outcome["lost"] == 0
    assert outcome["results_per_task"] == {"defect": 300, "material": 300}
    assert outcome["trunk_passes_per_frame"] == pytest.approx(1.0)
    assert outcome["sealed_test"]["defect"]["2"] > outcome["sealed_test"]["defect"]["1"] > 0.4
    assert outcome["sealed_test"]["material"]["1"] > 0.4


def some_of(source: Path, target: Path, labels: Sequence[str], count: int) -> Path:
    """The first pictures of some labels."""
    for label in labels:
        (target / label).mkdir(parents=True)
        for picture in sorted((source / label).glob("*"))[:count]:
            shutil.copy(picture, target / label)
    return target


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--data", "x"], "task"),
        (["--data", "x", "--task", "a"], "clip"),
        (["--clip", "nothing.mp4", "--source", "rtsp://127.0.0.1/x"], "source"),
        (["--clip", "nothing.mp4"], "clip"),
        (["--data", "x", "--data", "y", "--task", "a", "--task", "a"], "task"),
        (["--backend", "triton"], "triton-url: no Triton is named"),
        (["--backend", "torch", "--triton-url", "localhost:8001"], "backend: Tritons are named, and not asked"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: list[str], field: str) -> None:
    done = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path / "demo"), *options])

    assert done.exit_code == 2
    assert field in done.stderr
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("backend", [["--backend", "triton"], []], ids=["said", "implied by the address"])
def test_a_triton_that_is_named_is_asked(tmp_path: Path, tiny: Sequence[str | Path], backend: list[str]) -> None:
    options = ["--out", str(tmp_path / "demo"), *map(str, tiny), *backend, "--triton-url", "127.0.0.1:9"]

    done = CliRunner().invoke(cli, ["demo", *options])

    assert done.exit_code == 4
    assert "127.0.0.1:9" in done.stderr
    assert "tritonserver" in done.stderr


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")

    done = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path)])

    assert done.exit_code == 2
    assert precious.read_text() == "mine"


def test_what_keeps_the_server_from_starting_is_told_before_the_work(tmp_path: Path) -> None:
    weights = tmp_path / "nothing.safetensors"

    done = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path / "demo"), "--weights", str(weights)])

    assert done.exit_code == 4
    assert "the server did not start: " in done.stderr
    assert str(weights) in done.stderr
    assert {file.name for file in (tmp_path / "demo").iterdir()} <= {"server", ".lensmount-demo"}


def test_settings_of_ones_own_server_are_not_the_demos(
    tmp_path: Path, tiny: Sequence[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LENSMOUNT_PACKAGES", str(tmp_path / "mine"))
    monkeypatch.setenv("LENSMOUNT_" + "THREDS", "a slip")
    served = Served("test_vit", Path(tiny[-1]))

    with started_server(tmp_path / "server", served) as address, Client(address) as client:
        assert client.info()

    assert not (tmp_path / "mine").exists()
