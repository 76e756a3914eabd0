import pluggy

from .api.ablating import hold as hold
from .api.ablating import mean as mean
from .api.ablating import zero as zero
from .api.conditions import condition as condition
from .api.evaluation import evaluate as evaluate
from .api.evaluation import load_model as load_model
from .api.evaluation import register as register
from .api.evaluation import run as run
from .api.finished import Run as Run
from .api.finished import load_run as load_run
from .api.finished import runs as runs
from .api.loaded import LoadedModel as LoadedModel
from .errors import HarnessError as HarnessError
from .model.model import Model as Model

__all__ = [
    "HarnessError",
    "LoadedModel",
    "Model",
    "Run",
    "__version__",
    "condition",
    "evaluate",
    "hold",
    "hookimpl",
    "load_model",
    "load_run",
    "mean",
    "register",
    "run",
    "runs",
    "zero",
]

__version__: str
hookimpl: pluggy.HookimplMarker
