"""Cost per generated token of bridge + suffix against the full backbone, layer by layer.

    python tests/benchmarks/bench_generation.py --home runs --layers 1 2 3 4 5 6

Reads the bridges of a finished study's sweep. The full backbone (with its KV cache) is timed right beside
every hybrid, so that a busy machine slows both; a ratio is taken of two neighbours, in wall seconds and in
CPU seconds (which a neighbour on the same cores moves less), and the median over rounds is shown with the
smallest and largest. One row of text: this is latency, where weights are read once per token.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import DynamicCache

from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.tokenizers import load_tokenizer, quiet_transformers
from dihal_core.hybrid.assemble import hybrid_of_store
from dihal_core.hybrid.causal_lm import DiHALForCausalLM
from dihal_core.hybrid.published import find_study, sweep_arms
from dihal_core.hybrid.sources import asset_records
from dihal_core.hybrid.tokenizer import tokens_of
from dihal_core.store import resolve_home


@torch.inference_mode()
def decode_seconds(
    model: torch.nn.Module, prompt_BT: torch.Tensor, tokens: int, **options: object
) -> tuple[float, float]:
    """Return wall and CPU seconds per token of greedy decoding after the prompt was read."""
    cache = None if isinstance(model, DiHALForCausalLM) else DynamicCache(config=model.config)
    output = model(prompt_BT, past_key_values=cache, use_cache=True, logits_to_keep=1, **options)
    next_B1 = output.logits[:, -1:].argmax(-1)
    started, busy = time.perf_counter(), time.process_time()
    for _ in range(tokens):
        output = model(next_B1, past_key_values=output.past_key_values, use_cache=True, **options)
        next_B1 = output.logits[:, -1:].argmax(-1)
    return (time.perf_counter() - started) / tokens, (time.process_time() - busy) / tokens


@torch.inference_mode()
def bridge_seconds(model: DiHALForCausalLM, prompt_BT: torch.Tensor, tokens: int, steps: int) -> float:
    """Return seconds per token of the bridge alone, on cached context."""
    cache = model(prompt_BT, use_cache=True, sampling_steps=steps).past_key_values
    embedding_B1D = model.backbone.embed(prompt_BT[:, :1])
    started = time.perf_counter()
    for _ in range(tokens):
        cache.stream.extend(embedding_B1D)
    return (time.perf_counter() - started) / tokens


@torch.inference_mode()
def whole_seconds(run: Callable[[torch.Tensor], object], tokens_BT: torch.Tensor) -> float:
    """Return seconds per token of one pass over whole windows."""
    started = time.perf_counter()
    run(tokens_BT)
    return (time.perf_counter() - started) / tokens_BT.numel()


def spread(values: list[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def main() -> int:
    """Print one line per layer, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", default=None)
    parser.add_argument("--study", default=None)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=90.0, help="start no round after so long, but do three")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    study = find_study(resolve_home(arguments.home), arguments.study)
    settings, _ = sweep_arms(study, arguments.layers[0])
    assets = asset_records(settings.backbone, (study.parent.parent,)) if settings.backbone.source == "asset" else {}
    with quiet_transformers():
        tokenizer = load_tokenizer(settings.backbone, assets)
        backbone = load_backbone(settings.backbone, assets, "cpu", settings.seed)
    tokens = tokens_of(tokenizer, settings.backbone)
    hybrids = {
        layer: hybrid_of_store(sweep_arms(study, layer)[1], layer, settings, assets, tokens, shared=True)
        for layer in arguments.layers
    }
    generator = torch.Generator().manual_seed(0)
    window_BT = torch.randint(10, backbone.vocab_size, (2, 128), generator=generator)
    window_BT[:, 0] = tokens.separator
    prompt_BT = window_BT[:1, : arguments.prompt_tokens]
    teacher: list[float] = []
    whole: list[float] = []
    found = {layer: {name: [] for name in ("one", "cpu", "four", "bridge", "whole", "ms")} for layer in hybrids}
    started = time.perf_counter()
    for turn in range(arguments.rounds + 1):  # the first round warms up and is not counted
        if turn > 3 and time.perf_counter() - started > arguments.seconds:
            break
        full_whole = whole_seconds(lambda x: backbone.logits(backbone.final(x)), window_BT)
        for layer, model in hybrids.items():
            full, full_cpu = decode_seconds(backbone.model, prompt_BT, arguments.tokens)
            one, one_cpu = decode_seconds(model, prompt_BT, arguments.tokens, sampling_steps=1)
            four, _ = decode_seconds(model, prompt_BT, arguments.tokens, sampling_steps=4)
            bridge = bridge_seconds(model, prompt_BT, arguments.tokens, 1)
            window = whole_seconds(lambda x, model=model: model(x).logits, window_BT)
            if turn == 0:
                continue
            row = found[layer]
            row["one"].append(one / full)
            row["cpu"].append(one_cpu / full_cpu)
            row["four"].append(four / full)
            row["bridge"].append(1e3 * bridge)
            row["whole"].append(window / full_whole)
            row["ms"].append(1e3 * one)
            teacher.append(full)
        if turn:
            whole.append(full_whole)
    result = {
        "backbone": settings.backbone.name,
        "threads": arguments.threads,
        "rounds": len(whole),
        "full_ms_per_token": spread([1e3 * value for value in teacher]),
        "full_ms_per_token_whole_windows": spread([1e3 * value for value in whole]),
        "layers": {layer: {name: spread(values) for name, values in row.items()} for layer, row in found.items()},
    }
    print(
        f"{settings.backbone.name}, {arguments.threads} threads, {len(whole)} rounds: full backbone "
        f"{result['full_ms_per_token']['median']:.2f} ms per generated token"
    )
    print("layer  ms/token  ratio to full (1 step)  in CPU seconds  4 steps  bridge alone ms  whole windows 2x128")
    for layer, row in result["layers"].items():
        one = row["one"]
        print(
            f"{layer:>5}  {row['ms']['median']:>8.2f}  {one['median']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
            f"{'':>4}  {row['cpu']['median']:<14.3f}  {row['four']['median']:<7.3f}  {row['bridge']['median']:<15.2f}  "
            f"{row['whole']['median']:.3f}"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
