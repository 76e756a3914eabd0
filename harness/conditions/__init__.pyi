from .conditions import BASELINE as BASELINE
from .conditions import Condition as Condition
from .conditions import Direction as Direction
from .conditions import Edit as Edit
from .conditions import End as End
from .conditions import Frozen as Frozen
from .conditions import Head as Head
from .conditions import Neuron as Neuron
from .conditions import Selection as Selection
from .conditions import SetNeurons as SetNeurons
from .conditions import Unit as Unit
from .conditions import by_layer as by_layer
from .head_edits import AttendFirst as AttendFirst
from .head_edits import SetHeads as SetHeads
from .neuron_edits import ClampNeurons as ClampNeurons
from .neuron_edits import ExchangeNeurons as ExchangeNeurons
from .neuron_edits import ScaleNeurons as ScaleNeurons
from .positions import Layout as Layout
from .positions import Positions as Positions
from .residual_edits import AddVector as AddVector
from .residual_edits import ProjectOut as ProjectOut
from .residual_edits import orthonormal as orthonormal

__all__ = [
    "BASELINE",
    "AddVector",
    "AttendFirst",
    "ClampNeurons",
    "Condition",
    "Direction",
    "Edit",
    "End",
    "ExchangeNeurons",
    "Frozen",
    "Head",
    "Layout",
    "Neuron",
    "Positions",
    "ProjectOut",
    "ScaleNeurons",
    "Selection",
    "SetHeads",
    "SetNeurons",
    "Unit",
    "by_layer",
    "orthonormal",
]
