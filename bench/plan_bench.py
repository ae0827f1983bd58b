"""The device's half of `plan_check.py`: a drawn model trained as a case says, its peak and its steps measured."""

from __future__ import annotations

import gc
import json
import statistics
import time
from dataclasses import asdict
from typing import Any

import torch
from plan_cases import Case, G
from step import batch_of, draw

from danlu.adapters.full import Full
from danlu.adapters.lora import LoRA
from danlu.planning import rates
from danlu.planning.cards import Card, seen_card
from danlu.planning.plan import Plan
from danlu.training.blocks.policy import Policy
from danlu.training.blocks.trunk import QuickTrunk
from danlu.training.forms import Form, fill
from danlu.training.graphs import Graphs
from danlu.training.likelihood import summed_nll
from danlu.training.methods.sft import SFT
from danlu.training.optim import build_optimizer, clip_gradients, gradient_norm
from danlu.training.precision import Precision

WARM, LEAST, MOST, ENOUGH_S = 2, 3, 6, 1.5
"""Steps before measuring, and measured: until so many seconds are spent."""
FULL: dict[str, tuple[Any, Any, str]] = {
    "full": ("fp32", "none", "adamw"),
    "full_lean": ("none", "none", "adamw_8bit"),
    "full_away": ("fp32", "all", "adamw"),
}
"""(masters, offload, optimizer) of the planner's ways."""


def predicted(plan: Plan) -> dict[str, Any]:
    assert plan.time is not None, "planned on a card"
    return {
        "allocated_bytes": plan.memory.allocated_bytes + rates.WORKSPACE_BYTES,
        "total_bytes": plan.total_bytes,
        "memory": plan.memory.to_json(),
        "step_s": plan.time.total_s,
        "time": plan.time.to_json(),
    }


def run_cases(cases: list[Case], budget_s: float, line: Any) -> list[dict[str, Any]]:
    began = time.perf_counter()
    facts = torch.cuda.get_device_properties(0)
    card = seen_card(facts.name, facts.total_memory, (facts.major, facts.minor))
    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()
    print(f"{card.name}: {card.memory_bytes / G:.1f} GiB, of which the context takes {context / 2**20:.0f} MiB")
    done: list[dict[str, Any]] = []
    bench: Bench | None = None
    for case in sorted(cases, key=lambda case: [other.kind for other in cases].index(case.kind)):
        if time.perf_counter() - began > budget_s:
            done.append({"case": asdict(case), "error": "left out: the time was up"})
            print(line(done[-1]), flush=True)
            continue
        if bench is None or bench.kind != case.kind:
            bench = None
            gc.collect()
            torch.cuda.empty_cache()
            bench = Bench(*case.kind)
        done.append(bench.run(case, card, context))
        print(f"{line(done[-1])}  at {time.perf_counter() - began:.0f} s", flush=True)
    return done


class Bench:
    """One drawn model, ready to train in one way."""

    def __init__(self, shape: str, precision: str, adapter: str, device: str = "cuda") -> None:
        self.kind = (shape, precision, adapter)
        began = time.perf_counter()
        self.model = draw(shape, device, "none" if precision == "16" else precision)
        masters, offload, kind = FULL.get(adapter, (None, "none", "adamw"))
        chosen: Any = LoRA(rank=16) if masters is None else Full(masters, offload)
        attached = chosen.attach(self.model)
        self.parameters = attached.parameters()
        self.precision = Precision.of(self.model.device, attached)
        self.quick = QuickTrunk(self.model) if masters is None else None
        self.graphs: Graphs | None = None
        self.optimizer: Any = build_optimizer(
            self.parameters, lr=1e-5, weight_decay=0.01, betas=(0.9, 0.999), is_flat=masters is None,
            kind=kind, has_masters=attached.has_masters_apart, offload=offload,  # type: ignore[arg-type]
        )  # fmt: skip
        print(f"{json.dumps(self.kind)} drawn in {time.perf_counter() - began:.1f} s", flush=True)

    def run(self, case: Case, card: Card, context: int) -> dict[str, Any]:
        """Predicted and measured, side by side."""
        plan = case.plan(card)
        told = {"case": asdict(case), "card": card.name, "context_bytes": context, "policies": plan.mix.to_json()}
        told["predicted"] = predicted(plan)
        if not plan.fits:
            return told | {"error": f"no plan fits: {plan.total_bytes / G:.1f} GiB"}
        torch.cuda.empty_cache()
        share = min(1.0, (case.cap_gib * G - context) / torch.cuda.mem_get_info()[1]) if case.cap_gib else 1.0
        torch.cuda.set_per_process_memory_fraction(share)
        try:
            return told | {"measured": self.measure(case, plan)}
        except torch.OutOfMemoryError as error:
            return told | {"error": f"out of memory: {str(error)[:200]}"}
        finally:
            self.graphs = None
            if self.quick is not None:
                self.quick.forget()
            torch.cuda.set_per_process_memory_fraction(1.0)
            self.optimizer.zero_grad()
            gc.collect()

    def measure(self, case: Case, plan: Plan) -> dict[str, Any]:
        if self.quick is not None:
            self.quick.use([Policy.parse(name) for name in plan.policies])
            self.model.quick = self.quick
        is_cuda = self.model.device.type == "cuda"
        batch = batch_of(case.tokens, case.documents, case.share, self.model.spec.vocab_size, "cpu")
        if Graphs.suits(self.model, self.quick, SFT(), case.tokens):
            self.graphs = Graphs(self.model, SFT(), self.optimizer.flat)
        thing = fill(batch, Form.of(batch, case.tokens)).pin() if self.graphs else batch.to(self.model.device)
        if is_cuda:
            torch.cuda.reset_peak_memory_stats()
        losses = [self._step(thing, batch.num_targets) for _ in range(WARM)]
        times: list[float] = []
        while len(times) < LEAST or (sum(times) < ENOUGH_S and len(times) < MOST):
            self._wait()
            began = time.perf_counter()
            losses.append(self._step(thing, batch.num_targets))
            self._wait()
            times.append(time.perf_counter() - began)
        return {
            "allocated_bytes": torch.cuda.max_memory_allocated() if is_cuda else 0,
            "reserved_bytes": torch.cuda.max_memory_reserved() if is_cuda else 0,
            "step_s": statistics.median(times),
            "step_s_range": [min(times), max(times)],
            "losses": [float(losses[0]), float(losses[-1])],
            "is_recorded": self.graphs is not None,
        }

    def _wait(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()

    def _step(self, thing: Any, num_targets: int) -> torch.Tensor:
        """As the trainer does it."""
        if self.graphs is not None:
            loss = self.graphs.accumulate(thing, num_targets) / num_targets
        else:
            with self.precision.forward():
                loss = summed_nll(self.model, thing) / num_targets
            loss.backward()
        clip_gradients(self.parameters, gradient_norm(self.parameters, self.optimizer), 1.0, self.optimizer)
        self.optimizer.step()
        if self.quick is not None:
            self.quick.forget()
            self.quick.refresh()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()
