"""The benches run as a person runs them, on backbones so small that it takes seconds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lensmount_server.bench import clips, decode, engine, pipeline, served, swap
from lensmount_server.bench.command import bench
from lensmount_server.catalog import Catalog
from lensmount_server.engine.choice import Candidate
from lensmount_server.engine.cpu import costs
from lensmount_server.engine.cpu.costs import CostTable
from lensmount_server.frames import Answer, Frame, Want
from lensmount_server.mounts import Mounted, Mounts

Run = Callable[..., dict[str, object]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small backbones, one table for all of them, and no trace in the user's cache."""
    chosen = Candidate(engine="torch", precision="fp32", one_row_ms=1, eight_rows_ms=8, error=0)
    table = CostTable(candidates=(chosen,), chosen=chosen, buckets=(1, 2, 4), batch_ms={1: 1, 8: 8})
    monkeypatch.setattr(costs, "_read", lambda _: table)
    monkeypatch.setattr(engine, "TRANSFORMER", "test_vit")
    monkeypatch.setattr(engine, "CONVOLUTIONAL", ("test_resnet",))
    monkeypatch.setattr(swap, "BACKBONE", "test_vit")
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def run() -> Run:
    def call(*arguments: str) -> dict[str, object]:
        done = CliRunner().invoke(bench, [*arguments, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        document: dict[str, object] = json.loads(done.stdout)
        return document

    return call


def test_engine(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "bench.png"
    report = run("engine", "--rounds", "2", "--plot", str(picture))
    assert (report["backbone"], report["precision"], report["engine"]) == ("test_vit", "fp32", "torch")
    cases = report["cases"]
    assert isinstance(cases, list)
    names = [case["name"] for case in cases]
    assert {*names} >= {
        "tail", "tail_1_frame", "heads", "all_blocks", "idle", "peft_mixed", "peft_set_adapter", "separate_merged",
    }  # fmt: skip
    assert [(case["backbone"], case["frames"]) for case in cases if case["name"] == "vs_timm_eager"] == [
        ("test_vit", 1), ("test_vit", 8), ("test_resnet", 1), ("test_resnet", 8),
    ]  # fmt: skip
    for case in cases:
        assert {"tasks", "edited_segments", "frames", "ms", "ratio", "ideal"} <= case.keys()
        assert case["ms"] > 0
        assert case["ratio_low"] <= case["ratio"] <= case["ratio_high"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_swap(run: Run) -> None:
    report = run("swap", "--swaps", "2", "--window", "0.3")
    assert report["swaps"] == 2
    assert isinstance(report["rows"], int)
    assert report["rows"] > 20
    assert (report["lost"], report["misrouted"]) == (0, 0)
    assert {"p99_ratio", "rss_growth_percent"} <= report.keys()


def test_a_server_that_answers_with_the_version_before_is_found_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the table of aliases is never moved again."""
    first: dict[str, Mounted] = {}

    def stale(self: Mounts, alias: str, mounted: Mounted, seq: int | None = None) -> None:
        kept = first.setdefault(mounted.id.task, mounted)
        self.pin(kept)
        self._aliases = {**self._aliases, (kept.id.task, alias): kept.id}
        self._set_by[kept.id.task, alias] = seq or 0

    monkeypatch.setattr(Mounts, "point", stale)
    report = run("swap", "--swaps", "2", "--window", "0.3")
    assert isinstance(report["misrouted"], int)
    assert report["misrouted"] > 0


def test_scores_of_another_version_under_the_right_name_are_found_out(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the other check: hashes are right, weights are not."""
    answer = Catalog.answer

    async def mixed(self: Catalog, frame: Frame, wants: list[Want], *rest: object) -> list[Answer]:
        answers = await answer(self, frame, wants, *rest)  # type: ignore[arg-type]
        return [Answer(**{**vars(each), "scores": tuple(reversed(each.scores))}) for each in answers]

    monkeypatch.setattr(Catalog, "answer", mixed)
    report = run("swap", "--swaps", "1", "--window", "0.3")
    assert isinstance(report["misrouted"], int)
    assert report["misrouted"] > 0


def test_capacity(run: Run) -> None:
    report = run("capacity", "--backbone", "test_vit", "--registered", "120", "--hot", "16")
    streams = report["streams"]
    assert isinstance(streams, list)
    assert [row["tasks"] for row in streams] == [1, 2, 4, 8]
    assert (report["registered"], report["hot"]) == (120, 16)
    assert {"cold_to_first_row_p50_ms", "memory_per_adapter_ratio", "scheduler_us_per_row"} <= report.keys()


@pytest.fixture
def short_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "FRAMES", 12)
    monkeypatch.setattr(decode, "HD", (640, 480, 500_000))
    monkeypatch.setattr(decode, "FULL_HD", (800, 600, 500_000))


def test_decode(run: Run, short_clips: None) -> None:
    before = os.environ.get(decode._OPTIONS), torch.get_num_threads()
    report = run("decode", "--rounds", "2")
    cases = report["cases"]
    assert isinstance(cases, list)
    assert {case["name"] for case in cases} >= {
        "timm_pil_720p", "opencv_720p", "timm_pil_1080p", "opencv_1080p", "eight_sources_5_of_30_fps",
    }  # fmt: skip
    for case in cases:
        assert case["ms"] > 0
        assert case["other_ms"] > 0
        assert case["ratio_low"] <= case["ratio"] <= case["ratio_high"]
    assert (report["rounds"], report["frames"]) == (2, 12)
    assert (os.environ.get(decode._OPTIONS), torch.get_num_threads()) == before  # nothing is left set


def test_both_sides_of_decode_see_the_same_pictures(tmp_path: Path) -> None:
    """The rivals' pictures are like ours, with another filter: nobody is timed at less than the whole work."""
    path = clips.write(tmp_path, clips.Recipe("a", 640, 480, 500_000, clips.NO_B_FRAMES), 5)
    theirs = [picture[:, :, ::-1] for picture in decode._captured(path)]
    ours = [each.picture.pixels for pictures in decode._decoding(path, None) for each in pictures]
    assert len(ours) == len(theirs) == 5
    assert all(abs(one.astype(int) - other).mean() < 2 for one, other in zip(ours, theirs, strict=True))


def test_people_see_a_table_of_decoding(short_clips: None) -> None:
    done = CliRunner().invoke(bench, ["decode", "--rounds", "2"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "opencv_1080p" in done.stdout


def test_pipeline(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WARM_UP", 30)
    monkeypatch.setattr(pipeline, "SETTLED_S", 0.0)
    engine_options = ["--engine", "torch", "--precision", "fp32", "--threads", "1"]
    report = run("pipeline", "--backbone", "test_vit", "--frames", "30", "--rounds", "2", *engine_options)
    assert (report["backbone"], report["rounds"]) == ("test_vit", 2)
    assert (report["frames"], report["answered"], report["dropped"]) == (60, 60, {})
    figures = {"fps", "engine_fps", "ratio", "core_ratio", "ideal", "p50_ms", "p99_ms", "worker_core_ms"}
    assert all(isinstance(report[name], float) and report[name] > 0 for name in figures)  # type: ignore[operator]


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_options", lambda *_: ["--no-such-option"])
    words = ["pipeline", "--backbone", "test_vit", "--frames", "30", "--engine", "torch", "--precision", "fp32"]
    done = CliRunner().invoke(bench, words, catch_exceptions=False)
    assert done.exit_code == 4
    assert "the server did not start: No such option" in done.output


def test_people_see_tables(tmp_path: Path) -> None:
    done = CliRunner().invoke(bench, ["engine", "--rounds", "2"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "separate_merged" in done.stdout
    done = CliRunner().invoke(bench, ["swap", "--swaps", "1", "--window", "0.2"], catch_exceptions=False)
    assert "misrouted" in done.stdout
