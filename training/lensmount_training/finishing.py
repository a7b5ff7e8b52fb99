"""The end of a run: calibrate, look at the sealed set once, write package and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lensmount_adapters.manifest import Manifest
from lensmount_adapters.package import content_hash, read_package
from lensmount_training.card import model_card
from lensmount_training.data.dataset import Dataset, Picture, Pictures
from lensmount_training.evaluation import Calibration, Scores
from lensmount_training.evaluation.judging import Evaluation, evaluate, metrics
from lensmount_training.evaluation.parts import sealed_words
from lensmount_training.evaluation.predicting import predict_adapter
from lensmount_training.evaluation.report import Report, render, show
from lensmount_training.evaluation.running import facts
from lensmount_training.evaluation.thresholds import calibrate
from lensmount_training.learning import Choice
from lensmount_training.packing import Description, adapter_of, manifest_of, pack, packed_before
from lensmount_training.progress import Progress
from lensmount_training.recipe import Recipe
from lensmount_training.run_folder import RunFolder
from lensmount_training.sealed import Opened, Sealed, identity
from lensmount_training.specimens import read_specimens
from lensmount_training.split import Split
from lensmount_training.strategies import Problem

REPORT = "report.html"
OF_PARTS = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "pictures")


@dataclass(frozen=True, eq=False)
class Finished:
    """The package's manifest and hash, the figures, how often the test set was opened, and sentences for people.

    `holds` says whether the sealed set bears out every requirement.
    """

    manifest: Manifest
    content_hash: str
    report: Path
    validation: Scores
    test: Scores
    openings: int
    holds: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Finishing:
    """A run that has chosen, and its data."""

    recipe: Recipe
    choice: Choice
    problem: Problem
    dataset: Dataset
    split: Split
    sealed: Sealed
    folder: RunFolder
    progress: Progress

    def finish(self) -> Finished:
        """Calibrate on the validation pictures, judge the sealed ones, write the package, then the report.

        A requirement that does not hold is told, and stands in the package: a server's gate refuses it.
        """
        own, problem = self.choice.chosen, self.problem
        calibration = calibrate(
            own.validation, problem.validation.targets, problem.labels, problem.kind, self.recipe.require_recall
        )
        validation = self._judge(own.validation, problem.validation, calibration, self._pictures(self.split.validation))
        adapter = identity(own.trained.tensors, calibration.temperature, calibration.thresholds)
        opened = self.sealed.open(f"train {self.folder.out.name}", adapter)
        test = self._test(opened, calibration)
        manifest = self._pack(calibration, validation, test, opened.number)
        report = self._report(test, opened)
        return Finished(
            manifest=manifest,
            content_hash=content_hash(self.folder.out),
            report=report,
            validation=validation.scores,
            test=test.scores,
            openings=opened.number,
            holds=test.holds,
            notes=(*calibration.notes, *_broken(test)),
        )

    def _pictures(self, files: tuple[str, ...]) -> tuple[Picture, ...]:
        wanted = set(files)
        return tuple(picture for picture in self.dataset.pictures if picture.file in wanted)

    def _judge(
        self, logits: Tensor, pictures: Pictures, calibration: Calibration, known: tuple[Picture, ...]
    ) -> Evaluation:
        problem = self.problem
        return evaluate(logits, pictures.targets, problem.labels, problem.kind, calibration, known, problem.seed)

    def _test(self, opened: Opened, calibration: Calibration) -> Evaluation:
        bar = self.progress.bar("opening the test set", len(opened.pictures))
        adapter = adapter_of(self.problem, self.choice.chosen.trained)
        logits = predict_adapter(adapter, self.problem.backbone, opened.pictures, bar)
        return self._judge(logits, opened.pictures, calibration, self._pictures(opened.files))

    def _pack(self, calibration: Calibration, validation: Evaluation, test: Evaluation, openings: int) -> Manifest:
        trained = self.choice.chosen.trained
        description = Description(
            task=self.recipe.task,
            strategy=self.choice.chosen.name,
            data_hash=self.dataset.hash,
            recipe=self.recipe.as_yaml(),
            temperature=calibration.temperature,
            thresholds=calibration.thresholds,
            requirements=calibration.requirements,
            metrics={
                **metrics(test),
                **_of_part("validation", validation),
                **_of_part("test", test),
                "test_openings": openings,
            },
        )
        manifest = manifest_of(self.problem, trained, description)
        if self.folder.out.exists():
            return packed_before(manifest, self.folder.out)
        card = model_card(manifest, self._counts(), validation.scores, test.scores)
        pack(self.problem, trained, manifest, read_specimens(self.dataset, self.split.train), card, self.folder.out)
        return manifest

    def _counts(self) -> Mapping[str, list[int]]:
        parts = {"train": self.split.train, "validation": self.split.validation, "sealed test": self.split.test}
        labels = range(len(self.problem.labels))
        return {
            part: [sum(label in picture.labels for picture in self._pictures(files)) for label in labels]
            for part, files in parts.items()
        }

    def _report(self, test: Evaluation, opened: Opened) -> Path:
        """The page for people; the package is there by now."""
        adapter = adapter_of(self.problem, self.choice.chosen.trained)
        package = read_package(self.folder.out)
        report = Report(
            task=self.recipe.task,
            evaluation=test,
            part=sealed_words(opened.number),
            facts={"why": self.choice.reason, **facts(package, self.folder.out, self.recipe.data, self.dataset)},
            shown=show(test, adapter, self.problem.backbone, opened.pictures),
            skipped=self.dataset.skipped,
            depth=self.choice.depth,
        )
        self.folder.put(REPORT, render(report))
        return self.folder.path / REPORT


def _of_part(part: str, evaluation: Evaluation) -> Mapping[str, float]:
    figures = metrics(evaluation)
    return {f"{part}_{name}": figures[name] for name in OF_PARTS}


def _broken(test: Evaluation) -> tuple[str, ...]:
    """Requirements that the sealed set does not bear out."""
    return tuple(
        f"{own.metric} is {own.value:.3f} on the sealed test set, {own.least:g} is required: a server will refuse it."
        if own.value is not None
        else f"{own.metric} can not be measured on the sealed test set, {own.least:g} is required."
        for own in test.requirements
        if not own.holds
    )
