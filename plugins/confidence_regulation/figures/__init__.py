"""The figures of Stolfo et al. (NeurIPS 2024), and some beside them: functions from arrays to a figure and its data.

Every figure's data hold what is drawn, in full precision and before anything is moved to the edge of an axis; its title
is a caption that gives the counts and says what was left out. Selected neurons are given as a mask, bool [n].
"""

from __future__ import annotations

from .effects import dfa_bars, head_ablation, total_direct
from .head_curves import HeadSet, head_curves
from .layers import layer_figures
from .neurons import activation_changes, entropy_argmax, frequency_kl, mediated_rho, norm_logit_var
from .positions import activation_curves, all_curves, entropy_by_position, induction_curves, natural_curves
from .spectrum import entropy_figures, singular_values
from .token_view import token_view
from .tokens import entropy_kl, kl_entropy_changes, loss_change
from .two_spectra import two_spectra

__all__ = [
    "HeadSet",
    "activation_changes",
    "activation_curves",
    "all_curves",
    "dfa_bars",
    "entropy_argmax",
    "entropy_by_position",
    "entropy_figures",
    "entropy_kl",
    "frequency_kl",
    "head_ablation",
    "head_curves",
    "induction_curves",
    "kl_entropy_changes",
    "layer_figures",
    "loss_change",
    "mediated_rho",
    "natural_curves",
    "norm_logit_var",
    "singular_values",
    "token_view",
    "total_direct",
    "two_spectra",
]
