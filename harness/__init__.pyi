import pluggy

from .api.evaluation import evaluate as evaluate
from .api.evaluation import load_model as load_model
from .api.evaluation import register as register
from .api.evaluation import run as run
from .api.exploring import ablations as ablations
from .api.exploring import activations as activations
from .api.finished import Run as Run
from .api.finished import load_run as load_run
from .api.finished import runs as runs
from .errors import HarnessError as HarnessError
from .model.model import Model as Model

__all__ = [
    "HarnessError",
    "Model",
    "Run",
    "__version__",
    "ablations",
    "activations",
    "evaluate",
    "hookimpl",
    "load_model",
    "load_run",
    "register",
    "run",
    "runs",
]

__version__: str
hookimpl: pluggy.HookimplMarker
