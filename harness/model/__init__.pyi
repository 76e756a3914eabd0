from .attention_patterns import patterns as patterns
from .expert_hooks import redistributed as redistributed
from .expert_hooks import removed as removed
from .experts import Experts as Experts
from .input_weights import InputWeights as InputWeights
from .input_weights import Norm as Norm
from .input_weights import attention_norm as attention_norm
from .input_weights import input_norm as input_norm
from .input_weights import read_in as read_in
from .key_values import cache_of as cache_of
from .loading import load_hf as load_hf
from .matrices import write_matrix as write_matrix
from .model import Batch as Batch
from .model import Model as Model
from .modules import down_bias as down_bias
from .modules import layer_input as layer_input
from .modules import on_final_residual as on_final_residual
from .output_weights import write_directions as write_directions
from .readout import Readout as Readout
from .readout import probe_norm as probe_norm
from .tokens import decode as decode
from .tokens import first_token as first_token
from .tokens import stop_tokens as stop_tokens
from .tokens import token_spans as token_spans
from .weight_rules import by_weights as by_weights
from .weight_scores import NullKind as NullKind
from .weight_scores import UnembeddingGeometry as UnembeddingGeometry
from .weight_scores import frequency_cosines as frequency_cosines
from .weight_scores import neuron_scores as neuron_scores
from .weight_scores import null_cosines as null_cosines
from .weight_scores import null_kind as null_kind
from .weight_scores import one_percent as one_percent
from .weight_scores import suggest_null_dims as suggest_null_dims
from .weight_scores import unembedding_geometry as unembedding_geometry
from .wrapping import wrap as wrap

__all__ = [
    "Batch",
    "Experts",
    "InputWeights",
    "Model",
    "Norm",
    "NullKind",
    "Readout",
    "UnembeddingGeometry",
    "attention_norm",
    "by_weights",
    "cache_of",
    "decode",
    "down_bias",
    "first_token",
    "frequency_cosines",
    "input_norm",
    "layer_input",
    "load_hf",
    "neuron_scores",
    "null_cosines",
    "null_kind",
    "on_final_residual",
    "one_percent",
    "patterns",
    "probe_norm",
    "read_in",
    "redistributed",
    "removed",
    "stop_tokens",
    "suggest_null_dims",
    "token_spans",
    "unembedding_geometry",
    "wrap",
    "write_directions",
    "write_matrix",
]
