"""Steps of LoRA training on a real model's shape with drawn weights: speed, peak memory, where the time goes.

    python bench/step.py qwen2.5-7b 16384:2048:all 16384:2048:all:0.3 4096:2048:light --profile OUT.txt

A case is tokens:document length[:policy[:supervised share[:written-out|graph]]]; length 0 is a mix of short ones.
Weights and ids are drawn; forward, backward, clipping and AdamW are the trainer's own. One JSON line a case.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parent))
from shape_run import write_shape

from danlu.adapters.lora import LoRA
from danlu.data.tokens import Tokens
from danlu.model import weights
from danlu.model.decoder import Decoder
from danlu.model.families import own_family
from danlu.model.quantized import make_room, quantized_layers
from danlu.training.batches import make_batch
from danlu.training.blocks.policy import Policy
from danlu.training.blocks.trunk import QuickTrunk
from danlu.training.flat import FlatAdamW
from danlu.training.forms import Form, fill
from danlu.training.graphs import Graphs
from danlu.training.likelihood import summed_nll
from danlu.training.methods.sft import SFT
from danlu.training.optim import build_optimizer, clip_gradients, gradient_norm

WARM, STEPS = 4, 8


def draw(shape: str, device: str, quantize: str = "none") -> Decoder:
    """The shape's decoder, drawn on the device, a quantised base layer by layer."""
    folder = write_shape(shape, Path(tempfile.mkdtemp()))
    config = weights.read_config(folder)
    family = own_family(config)
    assert family is not None
    with torch.device("meta"):
        model = Decoder(family.spec(config), folder, config)
    if quantize != "none":
        make_room(model, quantize, torch.bfloat16)
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            empty = torch.empty(weight.shape, dtype=torch.bfloat16, device=device)
            setattr(module, name, torch.nn.Parameter(empty, requires_grad=False))
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.02, generator=generator)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
        for layer in quantized_layers(model):
            shape_NK = (layer.out_features, layer.in_features)
            layer.take(torch.empty(shape_NK, device=device, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator))
    return model


def batch_of(tokens: int, length: int, share: float, vocab: int, device: str):
    random = np.random.default_rng(1)
    documents = []
    lengths = [length] * (tokens // length) if length else mixed_lengths(tokens, random)
    for length in lengths:
        is_learnt = np.zeros(length, dtype=np.uint8)
        is_learnt[length - int(length * share) :] = 1
        documents.append(Tokens(random.integers(0, vocab, length).astype(np.int32), is_learnt))
    return make_batch("train", np.arange(len(documents)), documents).to(torch.device(device))


def policies_of(text: str, num_layers: int) -> list[Policy]:
    """`all`, or `16*all-split+light-host`: so many layers of the first, the rest of the last."""
    policies: list[Policy] = []
    for part in text.split("+"):
        count, _, name = part.rpartition("*")
        policies += [Policy.parse(name)] * int(count or num_layers - len(policies))
    return policies


def mixed_lengths(tokens: int, random) -> list[int]:
    """Short documents, log-normal around 150 tokens."""
    lengths: list[int] = []
    while sum(lengths) < tokens:
        lengths.append(min(int(np.clip(random.lognormal(5, 0.8), 16, 1024)), tokens - sum(lengths)))
    return lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape")
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quantize", default="none")
    given = parser.parse_args()
    device = given.device
    model = draw(given.shape, device, given.quantize)
    attached = LoRA(rank=16).attach(model)
    parameters = attached.parameters()
    optimizer = build_optimizer(parameters, lr=1e-4, weight_decay=0.01, betas=(0.9, 0.999), is_flat=True)
    assert isinstance(optimizer, FlatAdamW)
    quick = QuickTrunk(model)
    for case in given.cases:
        tokens, length, policy, share, how = (case.split(":") + ["all", "1", ""][case.count(":") - 1 :])[:5]
        quick.use(policies_of(policy, len(quick.blocks)))
        model.quick = None if how == "written-out" else quick
        batch = batch_of(int(tokens), int(length), float(share), model.spec.vocab_size, "cpu")
        graphs = Graphs(model, SFT(), optimizer.flat) if how == "graph" else None

        on_device = batch.to(torch.device(device))

        filled = fill(batch, Form.of(batch, int(tokens))).pin() if graphs else None

        def step(batch=batch, graphs=graphs, filled=filled, on_device=on_device):
            if graphs:
                loss = graphs.accumulate(filled, batch.num_targets) / batch.num_targets
            else:
                loss = summed_nll(model, on_device) / batch.num_targets
                loss.backward()
            clip_gradients(parameters, gradient_norm(parameters, optimizer), 1.0, optimizer)
            optimizer.step()
            optimizer.zero_grad()
            quick.refresh()
            return loss.detach()

        told = {"shape": given.shape, "case": case, "base": given.quantize}
        try:
            told |= measure(step, int(tokens), device)
        except torch.OutOfMemoryError:
            told["error"] = "out of memory"
        print(json.dumps(told), flush=True)
        graphs = None
        torch.cuda.empty_cache()
        if given.profile and "error" not in told:
            profile(step, given.profile, case)


def measure(step, tokens: int, device: str) -> dict:
    if device != "cuda":
        losses = [float(step()) for _ in range(2)]
        return {"losses": losses}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    losses = [step() for _ in range(WARM)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(STEPS + 1)]
    marks[0].record()
    for mark in marks[1:]:
        losses.append(step())
        mark.record()
    torch.cuda.synchronize()
    times = [a.elapsed_time(b) for a, b in itertools.pairwise(marks)]
    return {
        "ms": round(statistics.median(times), 2),
        "ms_range": [round(min(times), 1), round(max(times), 1)],
        "tokens_per_s": round(tokens / statistics.median(times) * 1e3),
        "allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        "losses": [round(float(losses[0]), 4), round(float(losses[-1]), 4)],
    }


def profile(step, path: Path, title: str) -> None:
    """Kernels by time, appended to a text file."""
    step()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as taken:
        for _ in range(2):
            step()
        torch.cuda.synchronize()
    sums: dict[str, list[float]] = {}
    for event in taken.events():
        if str(event.device_type).endswith("CUDA"):
            entry = sums.setdefault(event.name[:110], [0.0, 0])
            entry[0] += event.device_time / 2e3
            entry[1] += 0.5
    total = sum(entry[0] for entry in sums.values())
    with path.open("a") as file:
        file.write(f"== {title}: {total:.1f} ms of kernels a step, {sum(e[1] for e in sums.values()):.0f} kernels\n")
        for name, (ms, count) in sorted(sums.items(), key=lambda item: -item[1][0])[:45]:
            file.write(f"{ms:9.2f} ms {100 * ms / total:5.1f}% x{count:<6.0f} {name}\n")


if __name__ == "__main__":
    main()
