from .activation_capture import activations as activations
from .activation_summaries import ActivationStatistics as ActivationStatistics
from .activation_summaries import HeadStatistics as HeadStatistics
from .activation_summaries import activation_statistics as activation_statistics
from .activation_summaries import head_statistics as head_statistics
from .closed_form import ClosedFormEngine as ClosedFormEngine
from .engine import Engine as Engine
from .engine import Progress as Progress
from .engine import batches as batches
from .final_layer import fits as fits
from .final_norm import denominators as denominators
from .generations import Generations as Generations
from .hooks import HookEngine as HookEngine
from .prefix import can_resume as can_resume
from .prefix import capture_prefix as capture_prefix
from .prefix import resume as resume
from .scores import Scores as Scores
from .tempering import Tempered as Tempered

__all__ = [
    "ActivationStatistics",
    "ClosedFormEngine",
    "Engine",
    "Generations",
    "HeadStatistics",
    "HookEngine",
    "Progress",
    "Scores",
    "Tempered",
    "activation_statistics",
    "activations",
    "batches",
    "can_resume",
    "capture_prefix",
    "denominators",
    "fits",
    "head_statistics",
    "resume",
]
