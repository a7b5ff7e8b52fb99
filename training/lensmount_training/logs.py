"""Where scalars of a run go: TensorBoard always, MLflow when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lensmount.errors import MissingExtraError, UnavailableError
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


def check_mlflow() -> None:
    """Raise MissingExtraError without MLflow: before hours of training, not behind them."""
    try:
        import mlflow  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("--mlflow needs the extra 'mlflow'", fix="pip install 'lensmount[mlflow]'") from error


def to_mlflow(address: str, recipe: Recipe, metrics: Mapping[str, float], package: Path, report: Path) -> None:
    """Record a finished run: its choices, its figures, its package and its report.

    `address` is MLflow's tracking URI. Raises MissingExtraError without MLflow,
    UnavailableError when it does not take the run.
    """
    check_mlflow()
    import mlflow  # noqa: PLC0415 - an extra

    try:
        mlflow.set_tracking_uri(address)
        mlflow.set_experiment(recipe.task)
        with mlflow.start_run(run_name=package.name):
            mlflow.log_params(recipe.model_dump(mode="json"))
            mlflow.log_metrics({_metric(name): value for name, value in metrics.items()})
            mlflow.log_artifacts(str(package), "package")
            mlflow.log_artifact(str(report))
    except mlflow.exceptions.MlflowException as error:
        message = f"MLflow did not take the run: {str(error).partition(chr(10))[0]}"
        fix = f"give a tracking URI such as sqlite:///mlflow.db; the package is in {package}"
        raise UnavailableError(message, field="mlflow", value=address, fix=fix) from error


def _metric(name: str) -> str:
    """MLflow's names have letters, digits and a few signs; labels have any."""
    return "".join(sign if sign.isalnum() or sign in "_-. /" else "_" for sign in name)
