"""Ways to train an adapter: one small class each behind one protocol."""

from lensmount_training.strategies.feature_extraction import FeatureExtraction
from lensmount_training.strategies.fine_tune import FineTune, FromScratch
from lensmount_training.strategies.lora import Lora
from lensmount_training.strategies.strategy import Problem, Strategy, Trained

__all__ = ["FeatureExtraction", "FineTune", "FromScratch", "Lora", "Problem", "Strategy", "Trained"]
