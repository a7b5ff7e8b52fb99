"""How good an adapter is and why; what is light to import. `judging`, `report` and their parts are imported by name."""

from lensmount_training.evaluation.calibration import Calibration
from lensmount_training.evaluation.intervals import Interval, accuracy_interval
from lensmount_training.evaluation.predicting import predict
from lensmount_training.evaluation.scores import Average, ClassScores, Scores, score

__all__ = [
    "Average",
    "Calibration",
    "ClassScores",
    "Interval",
    "Scores",
    "accuracy_interval",
    "predict",
    "score",
]
