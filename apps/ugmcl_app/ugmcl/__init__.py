"""ugmcl: uncertainty-guided mutual consistency learning, the method alone.

Needs torch, monai and numpy; reads and writes no images. Start at `trainer.fit` and `inference.Predictor`.
"""

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .config import Config
from .inference import Prediction, Predictor
from .presets import PRESETS, preset
from .sampling import TrainingCase
from .trainer import FitResult, Progress, evaluate, fit
from .volume import Volume

__all__ = [
    "PRESETS",
    "Checkpoint",
    "Config",
    "FitResult",
    "Prediction",
    "Predictor",
    "Progress",
    "TrainingCase",
    "Volume",
    "evaluate",
    "fit",
    "load_checkpoint",
    "preset",
    "save_checkpoint",
]
