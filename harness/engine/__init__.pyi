from .activation_capture import activations as activations
from .activation_summaries import ActivationStatistics as ActivationStatistics
from .activation_summaries import HeadStatistics as HeadStatistics
from .activation_summaries import activation_statistics as activation_statistics
from .activation_summaries import head_statistics as head_statistics
from .closed_form import ClosedFormEngine as ClosedFormEngine
from .final_layer import fits as fits
from .hooks import Engine as Engine
from .hooks import HookEngine as HookEngine
from .hooks import Progress as Progress
from .hooks import Scores as Scores
from .hooks import batches as batches
from .prefix import can_resume as can_resume
from .prefix import capture_prefix as capture_prefix
from .prefix import resume as resume

__all__ = [
    "ActivationStatistics",
    "ClosedFormEngine",
    "Engine",
    "HeadStatistics",
    "HookEngine",
    "Progress",
    "Scores",
    "activation_statistics",
    "activations",
    "batches",
    "can_resume",
    "capture_prefix",
    "fits",
    "head_statistics",
    "resume",
]
