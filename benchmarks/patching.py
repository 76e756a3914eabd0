"""Patching statement pairs after examples, every layer and token: tokens that all passes have in common are read once.

    python benchmarks/patching.py [--model smollm2-135m-instruct] [--pairs 1]

Ratios of processor times of this run, and the largest difference of a number.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from harness_plugins.post_training.analysis.patched_passes import Patched, Sharing, patch
from harness_plugins.post_training.analysis.statement_pairs import Statements, drawn_examples, prompts

import harness

CITIES = {
    "Toronto": "Canada", "Paris": "France", "Tokyo": "Japan", "Berlin": "Germany", "Boston": "America",
    "Rome": "Italy", "Madrid": "Spain", "London": "England", "Dublin": "Ireland",
}  # fmt: skip


def cities() -> Statements:
    """Each city is in its own country, and not in the next one's."""
    countries = list(CITIES.values())
    true = [f"The city of {city} is in {country}." for city, country in CITIES.items()]
    false = [f"The city of {city} is in {countries[i - len(countries) + 1]}." for i, city in enumerate(CITIES)]
    pairs = tuple((true[i], false[i - 1]) for i in range(len(true)))  # one country, two cities
    return Statements("cities", pairs, tuple((text, True) for text in true) + tuple((text, False) for text in false))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--pairs", type=int, default=1)
    options = parser.parse_args()
    model, data = harness.load_model(options.model, device="cpu"), cities()
    pairs = prompts([model], data, "examples", drawn_examples(data, 0), options.pairs, 0)
    sharing = Sharing.of(model)
    if not sharing.tokens:
        raise SystemExit(f"{model.name} does not go on after tokens that were read before.")
    ways = {"layers shared": Sharing(sharing.layers - {0}, tokens=False), "tokens, too": sharing}
    found: dict[str, tuple[float, Patched]] = {}
    for name, way in ways.items():
        start = time.process_time()
        patched = patch(model, model, pairs, sharing=way)
        found[name] = time.process_time() - start, patched
        print(f"{name}: {found[name][0]:.1f} s")
    (before, slow), (now, fast) = found.values()
    lengths = ", ".join(f"{len(x.clean)} tokens, {len(x.clean) - x.subject[0]} of them patched" for x in pairs)
    apart, largest = np.nanmax(np.abs(slow.patched - fast.patched)), np.nanmax(np.abs(slow.patched))
    print(f"{lengths}: {before / now:.1f}x; largest difference {apart:.1e} of {largest:.1f} nats")


if __name__ == "__main__":
    main()
