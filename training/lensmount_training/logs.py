"""Where scalars of a run go: TensorBoard always, MLflow when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lensmount.errors import MissingExtraError
from lensmount_training.context import Log
from lensmount_training.recipe import Recipe


@contextmanager
def tensorboard(folder: Path) -> Iterator[Log]:
    """A log that `tensorboard --logdir` shows while the run goes on."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - half a second that no help text should cost

    writer: Any = SummaryWriter(str(folder))
    try:
        yield writer.add_scalar
    finally:
        writer.close()


def to_mlflow(address: str, recipe: Recipe, metrics: Mapping[str, float], package: Path, report: Path) -> None:
    """Record a finished run: its choices, its figures, its package and its report.

    `address` is MLflow's tracking URI. Raises MissingExtraError without MLflow.
    """
    try:
        import mlflow  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("--mlflow needs the extra 'mlflow'", fix="pip install 'lensmount[mlflow]'") from error
    mlflow.set_tracking_uri(address)
    mlflow.set_experiment(recipe.task)
    with mlflow.start_run(run_name=package.name):
        mlflow.log_params(recipe.model_dump(mode="json"))
        # MLflow's names have letters, digits and a few signs; labels have any.
        mlflow.log_metrics(
            {"".join(c if c.isalnum() or c in "_-. /" else "_" for c in k): v for k, v in metrics.items()}
        )
        mlflow.log_artifacts(str(package), "package")
        mlflow.log_artifact(str(report))
