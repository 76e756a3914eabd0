from .conditions import BASELINE as BASELINE
from .conditions import Condition as Condition
from .conditions import Edit as Edit
from .conditions import End as End
from .conditions import Frozen as Frozen
from .conditions import Selection as Selection
from .conditions import SetNeurons as SetNeurons
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
from .units import DIRECTIONS as DIRECTIONS
from .units import HEADS as HEADS
from .units import NEURONS as NEURONS
from .units import Direction as Direction
from .units import Head as Head
from .units import Neuron as Neuron
from .units import Site as Site
from .units import Unit as Unit
from .units import by_layer as by_layer

__all__ = [
    "BASELINE",
    "DIRECTIONS",
    "HEADS",
    "NEURONS",
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
    "Site",
    "Unit",
    "by_layer",
    "orthonormal",
]
