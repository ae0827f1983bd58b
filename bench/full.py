"""Full fine-tuning of a 7B shape on a card of 80 GB: tokens/s and peak memory of each way, beside what is planned.

    python bench/full.py OUT.json                                 all ways, under a cap of 80 GB
    python bench/full.py OUT.json away:6144 --memory 80 --shape llama-3.1-8b

A case is way:tokens at once[:pieces a step]. Ways: `lean` is bf16 without masters and 8-bit moments; `away` keeps fp32
masters and fp32 moments in the machine's memory, `away-8bit` 8-bit ones, `masters-away` masters alone beside 8-bit
moments on the card. One piece a step is applied inside the backward, without clipping; more are added up and clipped.
Weights and ids are drawn, documents of 2,048 tokens, all of them learnt. Memory is what the allocator held at most; the
device's own part (context, kernels) is taken off the cap. One JSON line a case, all of them in OUT.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parent))
from race.machine import about, pretty
from shape_run import shapes_of
from step import batch_of, draw

from danlu.adapters.full import Full
from danlu.pipeline.device import choose_device
from danlu.planning import rates
from danlu.planning.cards import find_card, seen_card
from danlu.planning.memory import predict_memory
from danlu.planning.policy import Mix
from danlu.planning.time import predict_time
from danlu.planning.work import Work
from danlu.training.lean import LeanAdamW, release
from danlu.training.likelihood import summed_nll
from danlu.training.optim import build_optimizer, clip_gradients, gradient_norm

G = 2**30
DOCUMENT = 2048
WARM, STEPS = 2, 4
WAYS: dict[str, dict[str, Any]] = {
    "lean": {"masters": "none", "offload": "none", "kind": "adamw_8bit"},
    "away": {"masters": "fp32", "offload": "all", "kind": "adamw"},
    "away-8bit": {"masters": "fp32", "offload": "all", "kind": "adamw_8bit"},
    "masters-away": {"masters": "fp32", "offload": "masters", "kind": "adamw_8bit"},
}
CASES = ("lean:4096", "lean:4096:4", "away:6144", "away:6144:4", "masters-away:4096", "masters-away:4096:4")


@dataclass(frozen=True)
class Case:
    way: str
    tokens: int
    pieces: int = 1

    @classmethod
    def read(cls, text: str) -> Case:
        way, tokens, *pieces = text.split(":")
        return cls(way, int(tokens), *map(int, pieces))

    def work(self, shape: str) -> Work:
        settings = WAYS[self.way]
        return Work(
            shapes=shapes_of(shape), context=DOCUMENT, document_tokens=DOCUMENT, micro_tokens=self.tokens,
            batch_tokens=self.tokens * self.pieces, is_full=True, rank=0, has_masters=settings["masters"] == "fp32",
            has_8bit_states=settings["kind"] == "adamw_8bit", offload=settings["offload"], frees_gradients=True,
        )  # fmt: skip


class Bench:
    """One drawn model and the optimizer of one way."""

    def __init__(self, shape: str, way: str, device: str) -> None:
        settings = WAYS[way]
        self.model, self.device = draw(shape, device), device
        attached = Full(settings["masters"], settings["offload"]).attach(self.model)
        self.parameters = attached.parameters()
        began = time.perf_counter()
        optimizer = build_optimizer(
            self.parameters, lr=1e-5, weight_decay=0.01, betas=(0.9, 0.999), kind=settings["kind"], in_backward=True,
            has_masters=attached.has_masters_apart, offload=settings["offload"],
        )  # fmt: skip
        assert isinstance(optimizer, LeanAdamW), "bf16 weights"
        self.optimizer = optimizer
        print(f"{way}: states made in {time.perf_counter() - began:.1f} s", flush=True)

    def run(self, case: Case) -> dict[str, Any]:
        if case.pieces > 1:  # gradients are added up, so none may be applied before the last
            release(self.parameters.values())
            self.optimizer.in_backward = False
        length = min(DOCUMENT, case.tokens)
        batch = batch_of(case.tokens, length, 1.0, self.model.spec.vocab_size, "cpu").to(torch.device(self.device))
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        losses = [self._step(batch, case.pieces) for _ in range(WARM)]
        times = []
        for _ in range(STEPS):
            self._wait()
            began = time.perf_counter()
            losses.append(self._step(batch, case.pieces))
            self._wait()
            times.append(time.perf_counter() - began)
        step = statistics.median(times)
        told: dict[str, Any] = {"step_s": round(step, 4), "step_s_range": [round(min(times), 4), round(max(times), 4)]}
        told |= {"tokens_per_s": round(case.tokens * case.pieces / step)}
        if self.device == "cuda":
            told |= {
                "allocated_gib": round(torch.cuda.max_memory_allocated() / G, 2),
                "reserved_gib": round(torch.cuda.max_memory_reserved() / G, 2),
            }
        return told | {"losses": [round(float(losses[0]), 4), round(float(losses[-1]), 4)]}

    def _step(self, batch: Any, pieces: int) -> torch.Tensor:
        self.optimizer.zero_grad()
        for _ in range(pieces):
            loss = summed_nll(self.model, batch) / batch.num_targets
            (loss / pieces).backward()
        norm = gradient_norm(self.parameters, self.optimizer)
        clip_gradients(self.parameters, norm, 0.0 if pieces == 1 else 1.0, self.optimizer)
        self.optimizer.step()
        return loss.detach()

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def planned(case: Case, shape: str) -> dict[str, Any]:
    """What the planner says of it, on the card that is here."""
    work = case.work(shape)
    mix = Mix.of("all", work.shapes.num_layers)
    memory = predict_memory(work, mix)
    told = {
        "reserved_gib": round((memory.total_bytes - rates.CONTEXT_BYTES) / G, 2),
        "allocated_gib": round((memory.allocated_bytes + rates.WORKSPACE_BYTES) / G, 2),
        "host_gib": round(memory.host_states_bytes / G, 2),
    }
    card = find_card("H200")
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        card = seen_card(facts.name, facts.total_memory, (facts.major, facts.minor))
    assert card is not None, "in the table"
    return told | {"step_s": round(predict_time(work, mix, card).total_s, 4)}


def cap(memory_gib: float) -> None:
    """The allocator may hold what a card of so much memory leaves it."""
    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (memory_gib * G - context) / total))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("cases", nargs="*", help=f"{' '.join(CASES)} where none are given")
    parser.add_argument("--shape", default="qwen2.5-7b")
    parser.add_argument("--memory", type=float, default=79.1, help="GiB of the card: 79.1 are what 80 GB cards have")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=125.0, help="seconds; cases that begin later are left out")
    given = parser.parse_args()
    began = time.perf_counter()
    device = choose_device(given.device)
    if device == "cuda":
        cap(given.memory)
    results: dict[str, Any] = {"about": about(sys.argv), "shape": given.shape, "memory_gib": given.memory, "cases": []}
    bench, kind = None, ""
    for text in given.cases or CASES:
        case = Case.read(text)
        told = {"case": text, "planned": planned(case, given.shape)}
        if time.perf_counter() - began > given.budget:
            told["error"] = "left out: the time was up"
        else:
            try:
                if bench is None or kind != case.way or (case.pieces == 1 and not bench.optimizer.in_backward):
                    bench = None
                    gc.collect()
                    bench, kind = Bench(given.shape, case.way, device), case.way
                told["measured"] = bench.run(case)
            except torch.OutOfMemoryError as error:
                told["error"], bench = f"out of memory: {str(error)[:160]}", None
        print(json.dumps(told), flush=True)
        results["cases"].append(told)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(pretty(results))
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
