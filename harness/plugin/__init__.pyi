from harness import hookimpl as hookimpl
from harness.conditions.conditions import BASELINE as BASELINE
from harness.conditions.conditions import Condition as Condition
from harness.conditions.conditions import Edit as Edit
from harness.conditions.conditions import End as End
from harness.conditions.conditions import Frozen as Frozen
from harness.conditions.conditions import Selection as Selection
from harness.conditions.conditions import SetNeurons as SetNeurons
from harness.conditions.head_edits import AttendFirst as AttendFirst
from harness.conditions.head_edits import SetHeads as SetHeads
from harness.conditions.positions import Positions as Positions
from harness.conditions.residual_edits import AddVector as AddVector
from harness.conditions.residual_edits import ProjectOut as ProjectOut
from harness.conditions.units import DIRECTIONS as DIRECTIONS
from harness.conditions.units import HEADS as HEADS
from harness.conditions.units import NEURONS as NEURONS
from harness.conditions.units import Direction as Direction
from harness.conditions.units import Head as Head
from harness.conditions.units import Neuron as Neuron
from harness.conditions.units import Site as Site
from harness.conditions.units import Unit as Unit
from harness.conditions.units import by_layer as by_layer
from harness.engine.activation_summaries import ActivationStatistics as ActivationStatistics
from harness.engine.activation_summaries import HeadStatistics as HeadStatistics
from harness.engine.engine import Engine as Engine
from harness.engine.engine import Progress as Progress
from harness.engine.scores import Scores as Scores
from harness.errors import HarnessError as HarnessError
from harness.errors import PluginError as PluginError
from harness.errors import suggest as suggest
from harness.files.wording import agree as agree
from harness.files.wording import counted as counted
from harness.files.wording import plural as plural
from harness.files.wording import the as the
from harness.model.model import Batch as Batch
from harness.model.model import Model as Model
from harness.statistics import Aggregated as Aggregated
from harness.statistics import AnyMeasure as AnyMeasure
from harness.statistics import Each as Each
from harness.statistics import Functional as Functional
from harness.statistics import Measure as Measure

from .base import Component as Component
from .base import InputFile as InputFile
from .components import Corpus as Corpus
from .components import Intervention as Intervention
from .components import Metric as Metric
from .components import ModelLoader as ModelLoader
from .components import SelectionContext as SelectionContext
from .components import Selector as Selector
from .components import Task as Task
from .executors import Executor as Executor
from .executors import RunGroups as RunGroups
from .parameters import AnyCorpus as AnyCorpus
from .parameters import AnyIntervention as AnyIntervention
from .parameters import AnyModel as AnyModel
from .parameters import AnySelector as AnySelector
from .parameters import CountsPath as CountsPath
from .parameters import ModelCorpus as ModelCorpus
from .parameters import Source as Source
from .parameters import Template as Template
from .places import AnyLayers as AnyLayers
from .places import layers_in as layers_in
from .records import Alone as Alone
from .records import Figure as Figure
from .records import Frame as Frame
from .records import Matrix as Matrix
from .records import Measurement as Measurement
from .records import Outcomes as Outcomes
from .records import Prepared as Prepared
from .records import Prompt as Prompt
from .records import PublishedNeurons as PublishedNeurons
from .records import Rows as Rows
from .records import Series as Series
from .records import Step as Step
from .records import Table as Table
from .records import per_prompt as per_prompt
from .registers import Evidence as Evidence
from .registers import Register as Register
from .registers import Value as Value
from .reporters import Asked as Asked
from .reporters import AskedRun as AskedRun
from .reporters import BegunRun as BegunRun
from .reporters import FinishedRun as FinishedRun
from .reporters import Reporter as Reporter
from .reporters import Work as Work
from .unit_kinds import mlp_site as mlp_site

__all__ = [
    "BASELINE",
    "DIRECTIONS",
    "HEADS",
    "NEURONS",
    "ActivationStatistics",
    "AddVector",
    "Aggregated",
    "Alone",
    "AnyCorpus",
    "AnyIntervention",
    "AnyLayers",
    "AnyMeasure",
    "AnyModel",
    "AnySelector",
    "Asked",
    "AskedRun",
    "AttendFirst",
    "Batch",
    "BegunRun",
    "Component",
    "Condition",
    "Corpus",
    "CountsPath",
    "Direction",
    "Edit",
    "End",
    "Engine",
    "Evidence",
    "Executor",
    "Figure",
    "FinishedRun",
    "Frame",
    "Frozen",
    "Functional",
    "HarnessError",
    "Head",
    "HeadStatistics",
    "InputFile",
    "Intervention",
    "Matrix",
    "Measure",
    "Measurement",
    "Metric",
    "Model",
    "ModelCorpus",
    "ModelLoader",
    "Neuron",
    "Outcomes",
    "PluginError",
    "Positions",
    "Prepared",
    "Progress",
    "ProjectOut",
    "Prompt",
    "PublishedNeurons",
    "Register",
    "Reporter",
    "Rows",
    "RunGroups",
    "Scores",
    "Selection",
    "SelectionContext",
    "Selector",
    "Series",
    "SetHeads",
    "SetNeurons",
    "Site",
    "Source",
    "Step",
    "Table",
    "Task",
    "Template",
    "Unit",
    "Value",
    "Work",
    "agree",
    "by_layer",
    "counted",
    "hookimpl",
    "layers_in",
    "mlp_site",
    "per_prompt",
    "plural",
    "suggest",
    "the",
]
