from .activation_capture import activations as activations
from .activation_summaries import ActivationStatistics as ActivationStatistics
from .activation_summaries import HeadStatistics as HeadStatistics
from .activation_summaries import activation_statistics as activation_statistics
from .activation_summaries import head_statistics as head_statistics
from .batch_sizes import halving as halving
from .batch_sizes import most as most
from .closed_form import ClosedFormEngine as ClosedFormEngine
from .engine import Engine as Engine
from .engine import Progress as Progress
from .engine import batches as batches
from .final_layer import fits as fits
from .final_norm import denominators as denominators
from .generations import Generations as Generations
from .hooks import HookEngine as HookEngine
from .prefix import Begun as Begun
from .prefix import begun as begun
from .prefix import can_resume as can_resume
from .prefix import can_resume_after as can_resume_after
from .prefix import capture_prefix as capture_prefix
from .prefix import resume as resume
from .scores import Scores as Scores
from .tempering import Tempered as Tempered

__all__ = [
    "ActivationStatistics",
    "Begun",
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
    "begun",
    "can_resume",
    "can_resume_after",
    "capture_prefix",
    "denominators",
    "fits",
    "halving",
    "head_statistics",
    "most",
    "resume",
]
