"""How the divergence of token frequencies from the prediction goes with its entropy (Stolfo et al. 2024, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.plugin import Condition, Outcomes, Prompt, per_prompt

from .mediation import EffectsTask, blocks
from .plain_text import by_token

if TYPE_CHECKING:
    from harness.effects import Effects
    from harness.plugin import Engine, Model


class UnigramEntropy(EffectsTask):
    """How the divergence of the token frequencies from the prediction, KL(P_freq || P_model), goes with its entropy."""

    name = "unigram_entropy"
    default_metrics = ("unigram_correlation", "temperature")

    def gives(self) -> frozenset[str]:
        return frozenset(
            {
                "tokens",
                "kl_unigram_change",
                "entropy_change",
                "levels",
                "changes",
                "kl_unigram",
                "tempered_kl_unigram",
                "log_temperature",
                "no_temperature",
                "series entropy",
                "series kl_unigram",
            }
        )

    def observe_group(self, engine: Engine, prompts: Sequence[Prompt], conditions: Sequence[Condition]) -> Outcomes:
        from harness.statistics.functionals import moments

        edited = [condition for condition in conditions if condition.role != "baseline"]
        found = self.measured(engine.model, prompts, edited, ("total",), batch_size=engine.batch_size, tempered=True)
        assert found.kl_unigram is not None and found.kl_unigram_change is not None
        none = np.zeros((1, len(found.prompt)), np.float32)
        entropy_change = np.concatenate([none, found.entropy_change["total"]])
        kl_change = np.concatenate([none, found.kl_unigram_change["total"]])
        entropy, kl = found.entropy + entropy_change, found.kl_unigram + kl_change

        def sums(values: np.ndarray) -> np.ndarray:
            return per_prompt(values, found.prompt, len(prompts))

        values = {
            "tokens": sums(np.ones_like(entropy)),
            "kl_unigram": sums(kl),
            "kl_unigram_change": sums(kl_change),
            "entropy_change": sums(entropy_change),
            **self._tempered(engine.model, found, entropy, len(prompts)),
            "levels": np.stack([sums(x) for x in moments(kl, entropy)], -1),
            "changes": np.stack([sums(x) for x in moments(kl_change, entropy_change)], -1),
        }
        lengths = [len(prompt.tokens) for prompt in prompts]
        series = {
            name: by_token({"baseline": array[0], "treated": array[1]}, found.prompt, found.position, lengths)
            for name, array in (("entropy", entropy), ("kl_unigram", kl))
        }
        return Outcomes(tuple(conditions), tuple(prompts), values, series=series, details={"tempered": TEMPERED_KL})

    def _tempered(self, model: Model, found: Effects, entropy: np.ndarray, n: int) -> dict[str, np.ndarray]:
        """The divergence from the untouched model at the temperatures at which it has these entropies [C, T].

        Of softmax(beta l) it is -H(f) - sum_v f_v log p_v(beta), and that is linear in log p_v: the token frequencies f
        are at any temperature what one token of their mean log-probability, -H(f) - KL, would be.
        """
        assert found.tempered is not None and found.kl_unigram is not None
        p = self.unigrams(model).probabilities
        own = float(-(p @ np.log(p)))
        parts = []
        for rows in blocks(entropy):
            equal = found.tempered.at_entropy(rows, found.entropy)
            values = {
                "tempered_kl_unigram": -own - equal.log_p(-own - found.kl_unigram.astype(np.float64)),
                "log_temperature": equal.log_temperature,
                "no_temperature": equal.outside,
            }
            parts.append({name: per_prompt(array, found.prompt, n) for name, array in values.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


TEMPERED_KL = [{"outcome": "kl_unigram", "title": "KL(P_freq || P_model)", "unit": "nats", "over": "tokens"}]
