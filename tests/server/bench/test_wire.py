"""`lensmount bench wire` as a person runs it, with a handful of requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lensmount.errors import ServerError
from lensmount_adapters.pictures import Pixels
from lensmount_server.bench import specimens
from lensmount_server.bench.command import bench
from lensmount_server.bench.wire import analyzer, rival, trivial
from lensmount_server.bench.wire.answering import answering
from lensmount_server.bench.wire.case import AGAINST_TRITON, CASES, GOALS, Side, case_of
from lensmount_server.bench.wire.front import order_of, pictures
from lensmount_server.bench.wire.load import Finding
from lensmount_server.bench.wire.loading import loading
from lensmount_server.bench.wire.turns import in_turns
from lensmount_server.engine.plan import plan
from lensmount_server.engine.reference import ReferenceExecutor
from triton_server import HOME, needs_triton

Run = Callable[..., dict[str, object]]

SHORT = ["--rounds", "2", "--requests", "32", "--engine", "torch", "--precision", "fp32", "--threads", "1"]
SMALL = ["--backbone", "test_vit"]


@pytest.fixture(autouse=True)
def scratch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run() -> Run:
    def call(*words: str) -> dict[str, object]:
        done = CliRunner().invoke(bench, ["wire", *SHORT, *words, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        document: dict[str, object] = json.loads(done.stdout)
        return document

    return call


def looks_right(case: dict[str, object], ratio: str = "") -> bool:
    """Both sides were measured, and the verdict is that of the figures."""
    sides = [case["ours"], case["other"]]
    if ratio:
        low, middle, high = (case[f"{ratio}{end}"] for end in ("_low", "", "_high"))
        assert low <= middle <= high  # type: ignore[operator] # JSON
    for side in sides:
        assert isinstance(side, dict)
        assert side["requests_per_second"] > 0
        assert 0 < side["p50_ms"] <= side["p99_ms"]
    return True


def test_without_a_triton_the_front_is_measured_beside_the_engine(run: Run) -> None:
    report = run(*SMALL)
    cases = report["cases"]
    assert isinstance(cases, list)
    assert [case["name"] for case in cases] == ["engine_16"]
    assert looks_right(cases[0], "ratio")
    assert (cases[0]["goal"], cases[0]["reached"]) == (0.95, cases[0]["ratio"] >= 0.95)
    assert "install-triton" in str(report["missing"])


def test_who_wants_a_triton_and_has_none_is_told_what_to_do(tmp_path: Path) -> None:
    done = CliRunner().invoke(bench, ["wire", "--triton", str(tmp_path / "none")])
    assert done.exit_code == 4
    assert "there is no Triton here" in done.output
    assert "run tests/install-triton" in done.output
    done = CliRunner().invoke(bench, ["wire", "--cases", "unary_3"])
    assert "choose from unary_1, unary_16" in done.output


@pytest.mark.triton
@pytest.mark.slow
def test_beside_a_real_triton(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_triton()
    monkeypatch.setattr(rival, "FORMS", (rival.Form(1, 0),))
    monkeypatch.setattr(analyzer, "WINDOW_MS", 200)
    analyses = analyzer.find(HOME) is not None
    report = run("--triton", str(HOME), *SMALL)
    cases = report["cases"]
    assert isinstance(cases, list)
    assert [case["name"] for case in cases] == list(CASES)
    for case in cases:
        against = case["name"] in AGAINST_TRITON
        assert looks_right(case, "ratio_to_triton" if against else "ratio")
        assert case["goal"] == GOALS[case["name"]]
        assert (case["beside"] == "Triton, batching, 0 ms delay, 1 instance") == against
        assert (case["answering"] is not None) == against
        assert (case["analysed"] is not None) == (against and analyses)
        if case["analysed"] is not None:
            assert looks_right(case["analysed"])
    assert report["missing"] == ""


class Answering(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # tritonclient has no types
    """Knows its pictures, and says of each what `scores` holds at its place, or `shift` places on."""

    def __init__(self, shown: Sequence[Pixels], scores: Tensor, shift: int) -> None:
        self._places = {picture.tobytes(): place for place, picture in enumerate(shown)}
        self._scores, self._shift = scores.numpy(), shift
        self.calls = 0

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - gRPC's signature
        self.calls += 1
        place = (self._places[request.raw_input_contents[0]] + self._shift) % len(self._scores)
        made = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        made.outputs.add(name="scores", datatype="FP32", shape=[1, self._scores.shape[1]])
        made.raw_output_contents.append(self._scores[place].tobytes())
        return made

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        for request in requests:
            yield service_pb2.ModelStreamInferResponse(infer_response=self.ModelInfer(request, context))


@contextmanager
def listening(answers: Answering) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(answers, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait(10)


@pytest.fixture(scope="module")
def shown() -> tuple[list[Pixels], Tensor]:
    """The bench's pictures, and what the trivial task says of them."""
    backbone = specimens.backbone_of(trivial.NAME)
    made, adapter = pictures(backbone), specimens.head_adapter(backbone, rival.SEED)
    (work,) = plan((place, adapter) for place in range(len(made)))
    (logits,) = ReferenceExecutor(backbone).run(work, torch.stack([*map(backbone.preprocessing.prepare, made)]))
    return made, logits.softmax(-1)


@pytest.mark.parametrize("name", AGAINST_TRITON)
def test_the_load_generator_sends_what_was_ordered(
    name: str, shown: tuple[list[Pixels], Tensor], tmp_path: Path
) -> None:
    server = Answering(*shown, shift=0)
    with listening(server) as url, loading(*shown, tmp_path) as load:
        found = load.run(order_of(name, url, "wire", 40))
    assert server.calls == len(found.latencies_ms) == (40 if name.endswith("16") else 10)
    assert found.wrong == 0
    assert max(found.latencies_ms) <= found.seconds * 1e3


@pytest.mark.parametrize("name", AGAINST_TRITON)
def test_the_server_that_only_answers_is_right(name: str, shown: tuple[list[Pixels], Tensor], tmp_path: Path) -> None:
    with loading(*shown, tmp_path) as load, answering(load.held, tmp_path / "answering.log") as url:
        found = load.run(order_of(name, url, "wire", 40))
    assert (found.wrong, len(found.latencies_ms)) == (0, 40 if name.endswith("16") else 10)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "none.npz").write_text("nothing")
    with pytest.raises(ServerError, match="did not start"), answering(tmp_path / "none.npz", tmp_path / "log"):
        pass


@pytest.mark.parametrize("name", ["unary_16", "stream_16"])
def test_the_answer_to_another_picture_is_found_out(
    name: str, shown: tuple[list[Pixels], Tensor], tmp_path: Path
) -> None:
    with (
        listening(Answering(*shown, shift=1)) as url,
        loading(*shown, tmp_path) as load,
        pytest.raises(ServerError, match="40 of 40 answers are wrong"),
    ):
        load.run(order_of(name, url, "wire", 40))


def found(seconds: float, latency_ms: float) -> Finding:
    return Finding(seconds, [latency_ms] * 10)


def test_beside_triton_a_goal_is_reached_where_both_rate_and_p99_are() -> None:
    fast, slow = [found(1.0, 5.0)] * 3, [found(2.0, 6.0)] * 3
    assert case_of("unary_1", "", fast, slow).reached is True
    assert case_of("unary_1", "", slow, fast).reached is False
    late = [found(1.0, 7.0)] * 3
    assert case_of("unary_1", "", late, slow).reached is False
    assert case_of("engine_16", "", late, slow).reached is True
    assert case_of("shared_memory", "", late, slow).reached is None


SAID = """\
    Throughput: 1234.5 infer/sec
    p50 latency: 1500 usec
    p99 latency: 9000 usec
"""


def program(folder: Path, script: str) -> Path:
    """A folder with a shell script in the place of perf_analyzer."""
    home = folder / "perf" / "bin"
    home.mkdir(parents=True)
    (home / "perf_analyzer").write_text(f"#!/bin/sh\n{script}\n")
    (home / "perf_analyzer").chmod(0o755)
    return folder


def test_what_perf_analyzer_says_is_read(tmp_path: Path) -> None:
    order = order_of("stream_16", "127.0.0.1:1", "wire/picture", 40)
    found = analyzer.find(program(tmp_path, f"echo \"$@\" > {tmp_path}/asked; echo '{SAID}'"))
    assert found is not None
    side = found.run(order, 224)
    assert side == Side(1234.5, 1.5, 9.0)
    asked = (tmp_path / "asked").read_text()
    assert "-u 127.0.0.1:1 -m wire/picture --shape picture:224,224,3 --concurrency-range 16" in asked
    assert "--streaming" in asked
    both = analyzer.analysed(
        [Side(10, 1, 1), Side(30, 3, 3), Side(20, 2, 2)], [Side(20, 1, 1), Side(20, 1, 1), Side(80, 1, 1)]
    )
    assert (both.ours, both.other, both.ratio) == (Side(20, 2, 2), Side(20, 1, 1), 0.5)


@pytest.mark.parametrize(
    "script", ["[ $1 = --version ]", "[ $1 = --version ] || echo Throughput: 5 infer/sec", "sleep 30"]
)
def test_a_perf_analyzer_that_does_not_measure_is_told(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = analyzer.find(program(tmp_path, f"[ $1 = --version ] && exit 0; {script}"))
    assert found is not None
    monkeypatch.setattr(analyzer, "LIMIT_S", 0.5)
    with pytest.raises(ServerError, match="perf_analyzer does not"):
        found.run(order_of("unary_1", "127.0.0.1:1", "wire", 40), 224)


def test_one_that_does_not_run_is_none(tmp_path: Path) -> None:
    assert analyzer.find(tmp_path) is None
    assert analyzer.find(program(tmp_path, "exit 1")) is None


def test_ratios_are_those_of_the_rounds() -> None:
    case = case_of("stream_1", "", [found(each, 5.0) for each in (1.0, 2.0, 4.0)], [found(2.0, 5.0)] * 3)
    told = case.as_object()
    assert (told["ratio_to_triton_low"], told["ratio_to_triton"], told["ratio_to_triton_high"]) == (0.75, 1.0, 1.5)
    assert case.ours.requests_per_second == 5.0


def test_sides_take_turns() -> None:
    ran: list[str] = []

    def side(name: str) -> Callable[[], Finding]:
        def run() -> Finding:
            ran.append(name)
            return Finding()

        return run

    in_turns({"a": side("a"), "b": side("b")}, 2, lambda _: None)
    assert "".join(ran) == "abab" + "ba"
