"""From a data set to a package: read, audit, split, train, choose, calibrate, look at the sealed set once, pack.

Every stage that was finished is kept in the run folder, so a process that was killed goes on where it was, to the same
bits. Nothing stands at the package's name until it is whole.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lensmount_adapters.backbones import Backbone, load_backbone
from lensmount_adapters.backbones.default import default_backbone
from lensmount_adapters.manifest import Manifest
from lensmount_training import processes
from lensmount_training.audit.domain import domain_distance
from lensmount_training.audit.duplicates import near_duplicate_sets
from lensmount_training.checks import check_fits, check_settings
from lensmount_training.context import Context, default_cache, default_openings
from lensmount_training.data.dataset import Dataset
from lensmount_training.data.formats import list_pictures
from lensmount_training.data.listing import Listing, Skipped
from lensmount_training.data.reading import read
from lensmount_training.data.rows import prune
from lensmount_training.evaluation import Scores
from lensmount_training.evaluation.required import check_required
from lensmount_training.finishing import Finishing
from lensmount_training.learning import Choice, learn
from lensmount_training.logs import tensorboard
from lensmount_training.places import GoesOn, choose_out
from lensmount_training.progress import NoProgress, Progress
from lensmount_training.recipe import AUTO, Recipe, listing_options
from lensmount_training.run_folder import RunFolder, opened
from lensmount_training.sealed import Sealed
from lensmount_training.settling import settled
from lensmount_training.split import Split, split_file, split_once
from lensmount_training.stages import forget
from lensmount_training.strategies import Problem


@dataclass(frozen=True)
class Run:
    """What came of a run: the package in `out`, its figures, what was chosen and why, and what it took.

    `recipe` is what was asked for with every default written out, see `settled`.
    `trained_parameters` are in the package, of a backbone with `backbone_parameters`; `openings` says how often the
    test set was opened by now; `holds` whether it bears out what was required; `seconds` is the whole run from reading
    the first picture to the package.
    """

    recipe: Recipe
    out: Path
    report: Path
    content_hash: str
    manifest: Manifest
    choice: Choice
    validation: Scores
    test: Scores
    train_pictures: int
    skipped: tuple[Skipped, ...]
    openings: int
    holds: bool
    notes: tuple[str, ...]
    trained_parameters: int
    backbone_parameters: int
    seconds: float


@dataclass(frozen=True)
class Found:
    """What a look at the data gives the run: sets of near-duplicates, and the domain distance in a word, if known."""

    together: tuple[frozenset[str], ...]
    domain: str | None


@dataclass(frozen=True)
class Places:
    """Where the package goes, and where it is found who opened its test set before."""

    target: Path
    openings: Path


def train(
    recipe: Recipe,
    out: Path | None = None,
    progress: Progress | None = None,
    *,
    cache: Path | None = None,
    backbone: Backbone | None = None,
    fresh: bool = False,
    openings: Path | None = None,
) -> Run:
    """Train an adapter as the recipe says and write its package at `out` (runs/TASK by default).

    The test set is drawn first, kept from everything that chooses, and judged once at the end. `backbone` is the
    recipe's, where the caller has loaded it; `fresh` forgets an unfinished run; `openings` is where it is found who
    opened the test set before (the user's own folder). Raises InvalidInputError, TooLargeError and UnavailableError
    for data, settings or places that can not work; then there is nothing at `out`.
    """
    started = time.perf_counter()
    shown = progress or NoProgress()
    loaded = functools.cache(lambda: backbone or open_backbone(recipe, shown))
    check_settings(recipe)
    target = choose_out(recipe.task, out, shown, going_on(recipe, loaded, fresh=fresh))
    listing = listed(recipe)
    check_fits(recipe, loaded())
    context = Context(shown, cache or default_cache())
    places = Places(target, openings or default_openings())
    return _run(settled(recipe, loaded()), places, listing, loaded(), context, fresh=fresh, started=started)


def going_on(recipe: Recipe, loaded: Callable[[], Backbone], *, fresh: bool) -> GoesOn:
    """Whether a run of this recipe was begun at a place and did not end well: it goes on there. Never where `fresh`."""

    def goes_on(place: Path) -> bool:
        left = None if fresh else RunFolder(place).left
        return left is not None and left == settled(recipe, loaded())

    return goes_on


def _run(
    recipe: Recipe,
    places: Places,
    listing: Listing,
    backbone: Backbone,
    context: Context,
    *,
    fresh: bool,
    started: float,
) -> Run:
    """The run itself, of a recipe that leaves nothing to defaults."""
    target, progress, cache = places.target, context.progress, context.cache
    with opened(target, recipe, progress, fresh=fresh) as folder, tensorboard(folder.path / "tensorboard") as log:
        context = Context(progress, cache, folder.stages, log)
        dataset = read(listing, backbone.preprocessing, cache, progress)
        folder.check_found(data=dataset.hash, backbone=backbone.fingerprint)
        found = examine(recipe, dataset, backbone, context, folder)
        split = split_once(dataset, recipe.seed, target, found.together)
        path = split_file(target, dataset.hash, recipe.seed)
        sealed = Sealed(dataset, split, path, places.openings)
        sealed.check()
        problem = problem_of(recipe, dataset, split, backbone)
        choice = learn(recipe, problem, processes.current().same((split, found.domain))[1], context)
        if choice.depth:
            folder.put("depth.png", choice.depth.picture)
        finished = Finishing(recipe, choice, problem, dataset, split, sealed, folder, progress).finish()
    forget(folder.stages)
    prune(cache)
    return Run(
        recipe=recipe,
        out=target,
        report=finished.report,
        content_hash=finished.content_hash,
        manifest=finished.manifest,
        choice=choice,
        validation=finished.validation,
        test=finished.test,
        train_pictures=len(problem.train),
        skipped=dataset.skipped,
        openings=finished.openings,
        holds=finished.holds,
        notes=finished.notes,
        trained_parameters=choice.chosen.trained.parameters,
        backbone_parameters=sum(parameter.numel() for parameter in backbone.model.parameters()),
        seconds=time.perf_counter() - started,
    )


def train_beside(recipe: Recipe, *, cache: Path | None = None, backbone: Backbone | None = None) -> None:
    """What every process but the first does: read the same data, and take a share of every batch.

    Audit, split, calibration, the sealed set and all files are the first one's. See `processes`.
    """
    backbone = backbone or open_backbone(recipe, NoProgress())
    context = Context(cache=cache or default_cache())
    recipe = settled(recipe, backbone)
    dataset = read(listed(recipe), backbone.preprocessing, context.cache, context.progress)
    split, domain = processes.current().same((None, None))
    if split is not None:
        learn(recipe, problem_of(recipe, dataset, split, backbone), domain, context)


def open_backbone(recipe: Recipe, progress: Progress) -> Backbone:
    """The recipe's backbone; "auto" is the one that can be had here, and is told."""
    if recipe.backbone != AUTO:
        return load_backbone(recipe.backbone, recipe.weights)
    chosen = default_backbone()
    progress.say(f"backbone {chosen.name}: {chosen.reason}")
    return load_backbone(chosen.name, recipe.weights)


def listed(recipe: Recipe) -> Listing:
    """List the recipe's data; raises InvalidInputError for data and settings that do not go together."""
    listing = list_pictures(recipe.data, listing_options(recipe))
    check_required(recipe.require_recall, listing.labels)
    return listing


def examine(recipe: Recipe, dataset: Dataset, backbone: Backbone, context: Context, folder: RunFolder) -> Found:
    """Audit the data and put the page into the run folder, or where that is left out look for what the run needs.

    Domain distance is what "auto" proposes by.
    """
    if not recipe.audit:
        domain = domain_distance(backbone, dataset, context).word if recipe.strategy == AUTO else None
        return Found(near_duplicate_sets(dataset, context), domain)
    from lensmount_training.audit import auditing, page, writing  # noqa: PLC0415 - cleanlab and cleanvision take seconds

    audited = auditing.audit(dataset, backbone, context, seed=recipe.seed)
    html = page.page(audited, dataset, context)
    writing.write(folder.path / "audit", html, writing.encoded(writing.document(audited)))
    for finding in audited.findings:
        if finding.level != "note":
            context.progress.say(f"audit: {finding.text}")
    return Found(audited.parts.duplicates.sets, audited.parts.distance.word)


def problem_of(recipe: Recipe, dataset: Dataset, split: Split, backbone: Backbone) -> Problem:
    """What there is to learn, the sealed pictures left out."""
    return Problem(
        backbone=backbone,
        labels=dataset.labels,
        train=dataset.take(split.train),
        validation=dataset.take(split.validation),
        seed=recipe.seed,
        kind=dataset.kind,
    )
