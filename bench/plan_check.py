"""Predicted beside measured: the planner against the engine, over shapes, contexts, policies and memory caps.

    python bench/plan_check.py OUT.json                    all cases on this GPU
    python bench/plan_check.py OUT.json 7b-light 0.5b-2k   some of them
    python bench/plan_check.py OUT.json --again            judge an earlier OUT.json by today's constants, without a GPU
    python bench/plan_check.py --against bench/results/steps-h200.json    the same for steps of bench/step.py

Weights are drawn on the device, ids are random, documents equally long. A case with a cap is planned for that much
memory and runs under `torch.cuda.set_per_process_memory_fraction`. Memory is what the allocator held at most; the
device's own part (context, kernels) is measured once. Bars: peak within 5 %, step within 15 %.

At the end stand the errors, and for each part of a step the factor that would bring predictions nearest to what was
measured: what `planning/rates.py` and `planning/cards.py` should change by. They need not be followed to the letter.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from measured_steps import PEAK_BAR, TIME_BAR, points_of, table

from danlu.planning import rates
from danlu.planning.bases import BASES
from danlu.planning.cards import Card, find_card, seen_card
from danlu.planning.memory import predict_memory
from danlu.planning.plan import Limits, Plan, choose
from danlu.planning.policy import Mix
from danlu.planning.time import predict_time
from danlu.planning.work import Work

G = 2**30
WARM, STEPS = 3, 5


@dataclass(frozen=True)
class Case:
    """`policy` for every layer, or `cap_gib` to be planned for."""

    name: str
    shape: str
    tokens: int
    documents: int
    policy: str = ""
    cap_gib: float = 0.0
    share: float = 1.0
    precision: str = "16"
    adapter: str = "lora"

    @property
    def work(self) -> Work:
        # write_shape unties the heads of all shapes, and takes one vocabulary for them
        shapes = replace(BASES[self.shape], tied=False, vocab=152_064)
        return Work(
            shapes=shapes, context=self.documents, micro_tokens=self.tokens, batch_tokens=self.tokens,
            document_tokens=self.documents, supervised_ratio=self.share, precision=self.precision,  # type: ignore[arg-type]
            is_full=self.adapter != "lora", rank=16 if self.adapter == "lora" else 0,
            has_masters=self.adapter == "full", has_8bit_states=self.adapter == "full_lean",
        )  # fmt: skip

    def plan(self, card: Card) -> Plan:
        if self.cap_gib:
            return choose(self.work, card, Limits(int(self.cap_gib * G), 200 * G))
        mix = Mix.of(self.policy or "all", self.work.shapes.num_layers)  # type: ignore[arg-type]
        return Plan(self.work, card, mix, predict_memory(self.work, mix), predict_time(self.work, mix, card))


B7, B15, B05 = "qwen2.5-7b", "qwen2.5-1.5b", "qwen2.5-0.5b"
CASES = [
    Case("7b-all", B7, 16_384, 2048),
    Case("7b-light", B7, 16_384, 2048, "light"),
    Case("7b-input", B7, 16_384, 2048, "input"),
    Case("7b-input-host", B7, 16_384, 2048, "input-host"),
    Case("7b-some-learnt", B7, 16_384, 2048, share=0.3),
    Case("7b-4k", B7, 4096, 2048),
    Case("7b-short", B7, 16_384, 512),
    Case("7b-long", B7, 16_384, 16_384),
    Case("7b-32k-light", B7, 32_768, 32_768, "light"),
    Case("7b-cap48", B7, 16_384, 2048, cap_gib=48),
    Case("7b-cap24", B7, 16_384, 2048, cap_gib=24),
    Case("7b-cap20", B7, 16_384, 2048, cap_gib=20),
    Case("1.5b-all", B15, 16_384, 2048),
    Case("1.5b-8k-input", B15, 32_768, 8192, "input"),
    Case("1.5b-cap16", B15, 32_768, 2048, cap_gib=16),
    Case("0.5b-2k", B05, 2048, 2048),
    Case("0.5b-8k", B05, 8192, 2048),
    Case("0.5b-32k", B05, 32_768, 2048),
    Case("0.5b-cap8", B05, 32_768, 2048, cap_gib=8),
    Case("7b-fp8", B7, 16_384, 2048, precision="fp8"),
    Case("7b-nf4-input", B7, 16_384, 2048, "input", precision="nf4"),
    Case("7b-nf4-cap11", B7, 16_384, 2048, cap_gib=10.9, precision="nf4"),
    Case("1.5b-full", B15, 4096, 2048, adapter="full"),
    Case("1.5b-full-lean", B15, 4096, 2048, adapter="full_lean"),
]


# ---- on the device


def run_cases(cases: list[Case]) -> list[dict[str, Any]]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    card = seen_card(properties.name, properties.total_memory, (properties.major, properties.minor))
    torch.zeros(1, device="cuda")
    context = _device_bytes() - torch.cuda.memory_reserved()
    print(f"{card.name}: {card.memory_bytes / G:.1f} GiB, of which the context takes {context / 2**20:.0f} MiB")
    done: list[dict[str, Any]] = []
    bench: Bench | None = None
    for case in cases:
        kind = (case.shape, case.precision, case.adapter)
        if bench is None or bench.kind != kind:
            bench = None
            gc.collect()
            torch.cuda.empty_cache()
            try:
                bench = Bench(*kind)
            except Exception as error:  # a way to train that is not there yet is told, and the others run
                done.append({"case": asdict(case), "error": f"{type(error).__name__}: {error}"[:300]})
                print(json.dumps(done[-1]), flush=True)
                continue
        done.append(bench.run(case, card, context))
        print(_line(done[-1]), flush=True)
    return done


def _device_bytes() -> int:
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free


class Bench:
    """One drawn model, ready to train in one way."""

    def __init__(self, shape: str, precision: str, adapter: str) -> None:
        import torch
        from step import draw

        from danlu.adapters.full import Full
        from danlu.adapters.lora import LoRA
        from danlu.training.blocks.trunk import QuickTrunk
        from danlu.training.optim import build_optimizer

        self.kind = (shape, precision, adapter)
        began = time.perf_counter()
        self.model = draw(shape, "cuda")
        if precision != "16":
            _quantise(self.model, precision)
        attached: Any = (
            LoRA(rank=16).attach(self.model) if adapter == "lora" else _full(Full, adapter).attach(self.model)
        )
        self.parameters = attached.parameters()
        self.quick = QuickTrunk(self.model) if adapter == "lora" else None
        self.model.quick = self.quick
        self.graphs: Any = None
        self.optimizer = build_optimizer(
            self.parameters, lr=1e-4, weight_decay=0.01, betas=(0.9, 0.999), is_flat=adapter == "lora",
            **({"kind": "adamw_8bit"} if adapter == "full_lean" else {}),
        )  # fmt: skip
        torch.cuda.synchronize()
        print(f"{self.kind} drawn in {time.perf_counter() - began:.1f} s", flush=True)

    def run(self, case: Case, card: Card, context: int) -> dict[str, Any]:
        """Predicted and measured, side by side."""
        import torch

        plan = case.plan(card)
        told = {"case": asdict(case), "card": card.name, "context_bytes": context, "policies": plan.mix.to_json()}
        self._lay(plan)
        torch.cuda.empty_cache()
        share = min(1.0, (case.cap_gib * G - context) / card.memory_bytes) if case.cap_gib else 1.0
        torch.cuda.set_per_process_memory_fraction(share)
        try:
            return told | {"predicted": predicted(plan), "measured": self._measure(case)}
        except torch.OutOfMemoryError as error:
            return told | {"predicted": predicted(plan), "error": f"out of memory: {str(error)[:200]}"}
        finally:
            self.graphs = None
            torch.cuda.set_per_process_memory_fraction(1.0)
            self.optimizer.zero_grad()
            gc.collect()

    def _lay(self, plan: Plan) -> None:
        from danlu.training.blocks.policy import Policy

        if self.quick is not None:
            self.quick.use([Policy.parse(name) for name in plan.policies])

    def _measure(self, case: Case) -> dict[str, Any]:
        import torch
        from step import batch_of

        batch = batch_of(case.tokens, case.documents, case.share, self.model.spec.vocab_size, "cpu")
        self.graphs = self._record(case)
        batch = batch if self.graphs else batch.to(self.model.device)
        torch.cuda.reset_peak_memory_stats()
        losses = [self._step(batch) for _ in range(WARM)]
        torch.cuda.synchronize()
        times = []
        for _ in range(STEPS):
            began = time.perf_counter()
            losses.append(self._step(batch))
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return {
            "allocated_bytes": torch.cuda.max_memory_allocated(),
            "reserved_bytes": torch.cuda.max_memory_reserved(),
            "step_s": statistics.median(times),
            "step_s_range": [min(times), max(times)],
            "losses": [float(losses[0]), float(losses[-1])],
            "is_recorded": self.graphs is not None,
        }

    def _record(self, case: Case) -> Any:
        """Graphs where the trainer would use them."""
        from danlu.training.graphs import Graphs
        from danlu.training.methods.sft import SFT

        if self.quick is None or not Graphs.suits(self.model, self.quick, SFT(), case.tokens):
            return None
        return Graphs(self.model, SFT(), self.optimizer.flat, case.tokens)

    def _step(self, batch: Any) -> Any:
        from danlu.training.optim import clip_gradients, gradient_norm

        if self.graphs is not None:
            loss = self.graphs.accumulate(batch, batch.num_targets)
        else:
            loss = self._loss(batch)
            loss.backward()
        clip_gradients(self.parameters, gradient_norm(self.parameters, self.optimizer), 1.0, self.optimizer)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.quick is not None:
            self.quick.refresh()
        return loss.detach()

    def _loss(self, batch: Any) -> Any:
        import torch

        from danlu.training.likelihood import summed_nll

        with torch.autocast("cuda", torch.bfloat16, enabled=self.quick is None):
            return summed_nll(self.model, batch) / batch.num_targets


def _quantise(model: Any, precision: str) -> None:
    """Every linear layer of the blocks, from the weight drawn for it."""
    import torch

    from danlu.model.quantized import HEADS, put
    from danlu.model.quantizers import QUANTIZERS

    quantizer = QUANTIZERS.load(precision)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and name.rpartition(".")[2] not in HEADS:
            fresh = quantizer.in_place_of(layer, torch.bfloat16)
            fresh.take(layer.weight.data)
            fresh.bias = layer.bias
            put(model, name, fresh)


def _full(full: Any, adapter: str) -> Any:
    """With fp32 masters, or without."""
    return full() if adapter == "full" else full(masters="none")


# ---- the judgement


def predicted(plan: Plan) -> dict[str, Any]:
    assert plan.time is not None
    return {
        "allocated_bytes": plan.memory.allocated_bytes + rates.WORKSPACE_BYTES,
        "total_bytes": plan.total_bytes,
        "memory": plan.memory.to_json(),
        "step_s": plan.time.total_s,
        "time": plan.time.to_json(),
    }


def judge(found: dict[str, Any]) -> tuple[float, float]:
    """(peak, time) predicted over measured, minus one."""
    peak = found["measured"]["reserved_bytes"] + found["context_bytes"]
    step = found["predicted"]["step_s"] / found["measured"]["step_s"]
    return found["predicted"]["total_bytes"] / peak - 1, step - 1


def _line(found: dict[str, Any]) -> str:
    name = found["case"]["name"]
    if "error" in found:
        return f"{name:16} {found['error']}"
    peak, step = judge(found)
    measured, guess = found["measured"], found["predicted"]
    held = (measured["reserved_bytes"] + found["context_bytes"]) / G
    return (
        f"{name:16} peak {held:6.2f} GiB, predicted {guess['total_bytes'] / G:6.2f} ({peak:+.1%}); allocated "
        f"{measured['allocated_bytes'] / G:6.2f}, predicted {guess['allocated_bytes'] / G:6.2f}; step "
        f"{measured['step_s'] * 1e3:7.1f} ms, predicted {guess['step_s'] * 1e3:7.1f} ({step:+.1%})  {found['policies']}"
    )


def summarise(done: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors against the bars, and the factors that would mend the times."""
    good = [found for found in done if "measured" in found]
    errors = {found["case"]["name"]: judge(found) for found in good}
    reserved = [f["measured"]["reserved_bytes"] / f["measured"]["allocated_bytes"] for f in good]
    return {
        "num_cases": len(good),
        "peak_errors": {name: round(peak, 4) for name, (peak, _) in errors.items()},
        "time_errors": {name: round(step, 4) for name, (_, step) in errors.items()},
        "within_peak_bar": sum(abs(peak) <= PEAK_BAR for peak, _ in errors.values()),
        "within_time_bar": sum(abs(step) <= TIME_BAR for _, step in errors.values()),
        "allocated_minus_predicted_mib": {
            f["case"]["name"]: round((f["measured"]["allocated_bytes"] - f["predicted"]["allocated_bytes"]) / 2**20)
            for f in good
        },
        "reserved_over_allocated": round(statistics.median(reserved), 4) if reserved else None,
        "context_mib": round(good[0]["context_bytes"] / 2**20) if good else None,
        "time_factors": _factors(good),
    }


def _factors(good: list[dict[str, Any]]) -> dict[str, float]:
    """For each part of a step the factor f that makes Σ (Σ_parts f · part / measured - 1)² least, drawn towards 1."""
    names = [name for name in good[0]["predicted"]["time"] if name != "total_s"] if good else []
    names = [name for name in names if any(f["predicted"]["time"][name] > 1e-4 for f in good)]
    if len(good) < 4:
        return {}
    shares = np.array([[f["predicted"]["time"][n] / f["measured"]["step_s"] for n in names] for f in good])
    pull = 0.05 * np.eye(len(names))
    solved = np.linalg.lstsq(
        np.vstack([shares, pull]), np.concatenate([np.ones(len(good)), 0.05 * np.ones(len(names))]), rcond=None
    )[0]
    return {name: round(float(value), 3) for name, value in zip(names, solved, strict=True)}


def judge_again(done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same measurements beside what today's constants predict."""
    for found in done:
        case, card = Case(**found["case"]), find_card(found.get("card", ""))
        if "measured" not in found or card is None:
            continue
        plan = case.plan(card)  # the mix that ran, whatever would be chosen now
        mix = Mix.counted(found["policies"])
        work = plan.work
        found["predicted"] = predicted(
            replace(plan, mix=mix, memory=predict_memory(work, mix), time=predict_time(work, mix, card))
        )
        print(_line(found))
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("cases", nargs="*", help="names; all where none are given")
    parser.add_argument("--again", action="store_true", help="no GPU: judge OUT by today's constants")
    parser.add_argument("--against", type=Path, metavar="FILE", help="no GPU: steps measured by bench/step.py")
    given = parser.parse_args()
    if given.against:
        print(table(list(points_of(given.against))))
        return
    if given.out is None:
        parser.error("OUT is missing")
    if given.again:
        done = judge_again(json.loads(given.out.read_text())["cases"])
    else:
        wanted = [case for case in CASES if not given.cases or case.name in given.cases]
        done = run_cases(wanted)
    summary = summarise(done)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"summary": summary, "cases": done}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
