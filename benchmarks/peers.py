"""One hooked condition as other libraries run it, beside ours: ten greedy tokens of the prompts of ``real.py``.

    python benchmarks/peers.py [--path FOLDER] [--controls 999]

Six neurons of the last layer are held at their means: by a hook and transformers' own ``generate``, by pyvene, and by
TransformerLens; a library that is not installed is left out. Each is timed for one condition, the least of --repeats
after one that is not counted, and scaled to all of them; ours runs all. The share of the same answers is printed, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from published import bridge
from real import TOKENS, conditions_of, models, options, prompts_of

from harness.conditions.conditions import SetNeurons
from harness.engine.closed_form import ClosedFormEngine
from harness.model.model import Model

Generate = Callable[[], torch.Tensor]
"""New tokens [n_prompts, TOKENS]."""


def by_transformers(model: Model, prompts: Sequence[Sequence[int]], edit: SetNeurons) -> Generate:
    """transformers' generate under a hook on the down projection."""
    batch, down = model.pad([list(tokens) for tokens in prompts]), model.anatomy.down_projections[edit.layer]

    def change(module: Any, args: Any) -> Any:
        return (set_neurons(args[0], edit), *args[1:])

    def generate() -> torch.Tensor:
        handle = down.register_forward_pre_hook(change)
        try:
            return new_tokens(model.hf.generate(**given(model, batch)), batch)
        finally:
            handle.remove()

    return generate


def by_pyvene(model: Model, prompts: Sequence[Sequence[int]], edit: SetNeurons) -> Generate:
    """pyvene's generate, its intervention on the down projection's input."""
    pyvene = importlib.import_module("pyvene")
    down = model.anatomy.down_projections[edit.layer]
    [path] = [name for name, module in model.hf.named_modules() if module is down]
    *folders, last = path.split(".")
    component = "".join(f"[{name}]" if name.isdigit() else f".{name}" for name in folders).lstrip(".")

    def change(base: torch.Tensor, source: Any) -> torch.Tensor:
        return set_neurons(base, edit)

    made = pyvene.IntervenableModel({"component": f"{component}.{last}.input", "intervention": change}, model=model.hf)
    batch = model.pad([list(tokens) for tokens in prompts])

    def generate() -> torch.Tensor:
        rest = given(model, batch)
        base = {name: rest.pop(name) for name in ("input_ids", "attention_mask")}
        return new_tokens(made.generate(base, unit_locations=None, intervene_on_prompt=True, **rest)[1], batch)

    return generate


def by_transformer_lens(model: Model, prompts: Sequence[Sequence[int]], edit: SetNeurons) -> Generate | None:
    """TransformerLens' hooks, a prompt at a time (its generate takes no mask), tokens chosen from its logits."""
    bridged = bridge(model)
    if bridged is None:
        return None

    def change(activations: torch.Tensor, hook: Any) -> torch.Tensor:
        return set_neurons(activations, edit)

    def generate() -> torch.Tensor:
        with bridged.hooks(fwd_hooks=[(f"blocks.{edit.layer}.mlp.hook_post", change)]):
            found = [
                bridged.generate(
                    torch.tensor([list(tokens)]),
                    max_new_tokens=TOKENS,
                    do_sample=False,
                    stop_at_eos=False,
                    verbose=False,
                )[0, len(tokens) :]
                for tokens in prompts
            ]
        return torch.stack(found)

    return generate


def set_neurons(activations: torch.Tensor, edit: SetNeurons) -> torch.Tensor:
    edited = activations.clone()
    edited[..., list(edit.indices)] = torch.tensor(edit.values, dtype=edited.dtype)
    return edited


def given(model: Model, batch: Any) -> dict[str, Any]:
    """Arguments of ``generate``: greedy, always TOKENS tokens."""
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "max_new_tokens": TOKENS,
        "min_new_tokens": TOKENS,
        "do_sample": False,
        "pad_token_id": 0,
    }


def new_tokens(sequences: torch.Tensor, batch: Any) -> torch.Tensor:
    return sequences[:, batch.input_ids.shape[1] :]


@torch.no_grad()
def compare(model: Model, n_prompts: int, controls: int, repeats: int) -> None:
    prompts = prompts_of(model, n_prompts)
    conditions = conditions_of(model, prompts, model.anatomy.n_layers - 1, controls)
    edit: Any = conditions[1].edits[0]
    engine = ClosedFormEngine(model, 64)
    ours = timed(lambda: engine.generate(prompts, conditions, TOKENS), repeats)
    answers = torch.from_numpy(engine.generate(prompts, conditions[:2], TOKENS).tokens[1])
    print(f"{model.name}: {len(conditions)} conditions, {len(prompts)} prompts: ours {ours:.1f} s", flush=True)
    peers = {"transformers": by_transformers, "pyvene": by_pyvene, "TransformerLens": by_transformer_lens}
    for name, make in peers.items():
        installed = name != "pyvene" or importlib.util.find_spec("pyvene") is not None
        generate = make(model, prompts, edit) if installed else None
        if generate is None:
            print(f"  {name}: not installed")
            continue
        same = float((generate() == answers).all(-1).float().mean())
        each = timed(generate, repeats)
        times = each * len(conditions) / ours
        print(f"  {name}: {each:.2f} s a condition, all of them {times:.0f}x ours; same answers {same:.1%}", flush=True)


def timed(work: Callable[[], Any], repeats: int) -> float:
    """Least processor time of one thread, after a call that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    parser = options(__doc__, repeats=2)
    parser.add_argument("--controls", type=int, default=999)
    args = parser.parse_args()
    for model, prompts in models(args):
        compare(model, prompts, args.controls, args.repeats)


if __name__ == "__main__":
    main()
