"""Is every spoilt export in codes (fp8, int8, awq, gptq) told from every honest one?

As `sabotage.py`, for the formats that have no rule saying what each number becomes. Two witnesses are counted apart:
our own decoding of the files held to what was trained (`files`), and the program that reads them, transformers with
compressed-tensors or auto-round's products (`reader`), which must say what our decoding says. A miss is listed with how
far the spoilt model lay from what was trained, beside the noise. `all`: for each family honest exports (of four bits
both auto-round's codes and nearest ones), for four of them the whole matrix, for the first each module at 0.9. `vllm`
asks vLLM itself for a sample, and needs the python of its environment.

    python bench/sabotage_quantised.py all|vllm|table OUT [--families N] [--skip N] [--vllm PYTHON]
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import sabotage_start  # noqa: F401 - first: before torch and transformers are

# isort: split
from sabotage_cases import HONEST, MATRIX_FAMILIES, NUM_MODULES, Cases, Key, arguments, try_all, write_table

from danlu.core.errors import DanluError
from danlu.exports.parity import Check
from sabotage_coded_trial import EIGHT, KINDS, CodedTrial
from sabotage_codes import harms_of
from sabotage_harms import one_module
from sabotage_kit import FAMILIES

VLLM_FAMILY = "qwen3"
"""vLLM on a CPU wants heads of 32 at least."""
VLLM_HARMS = {
    "fp8": ("scales of two layers swapped",), "int8": ("the end of turns lost",),
    "awq": ("groups twice as large in the header",), "gptq": ("zero points as version 2 has them",),
}  # fmt: skip
READERS = ("transformers_", "autoround_")


def keys(family: str, seed: int) -> Iterator[Key]:
    """Of everything but vLLM."""
    names = {"honest": lambda kind: HONEST[:1] if kind in EIGHT else HONEST}  # eight bits are the nearest ones
    if family in MATRIX_FAMILIES:
        names["matrix"] = harms_of
    if family == MATRIX_FAMILIES[0]:
        names["modules"] = lambda kind: [f"module {number} at 0.9" for number in range(NUM_MODULES)]
    for act, names_of in names.items():
        for kind in KINDS:
            for name in names_of(kind):
                yield Key(act, family, seed, kind, name)


def vllm_keys(family: str, seed: int) -> Iterator[Key]:
    for kind in KINDS:
        for name in ("", *VLLM_HARMS[kind]):
            yield Key("vllm", family, seed, kind, name)


def try_one(trial: CodedTrial, key: Key) -> dict[str, Any]:
    if key.harm in HONEST:
        return told(trial.nearest(key.kind) if key.harm else trial.honest(key.kind))
    harm = one_module(0.9, int(key.harm.split()[1])) if key.act == "modules" else harms_of(key.kind)[key.harm]
    try:
        checks = trial.spoilt(key.kind, harm)
    except DanluError as error:  # the writer, or our own reading of the files, would not
        return {"failed": ["refused"], "by": ["files"], "note": error.text[:200]}
    return {"nothing": "nothing to spoil in this family"} if checks is None else told(checks)


def told(checks: list[Check]) -> dict[str, Any]:
    failed = [check for check in checks if check.verdict == "fail"]
    by = {next((name[:-1] for name in (*READERS, "vllm_") if each.name.startswith(name)), "files") for each in failed}
    figures: dict[str, Any] = {}
    for check in checks:
        if check.name == "file_modules":
            keys_ = ("least_arrived", "most_arrived", "num_unshown")
            figures |= {name: check.numbers[name] for name in keys_ if name in check.numbers}
        if check.name.endswith("_logits") and check.numbers:
            part = check.name.removesuffix("_logits")
            figures[f"{part}_kl"], figures[f"{part}_floor"] = (
                check.numbers["mean_kl"], check.numbers["floor_mean_kl"],
            )  # fmt: skip
            figures[f"{part}_allowed"] = check.limits["mean_kl"]
    return {"failed": [each.name for each in failed], "by": sorted(by), "figures": figures,
            "not_run": [each.name for each in checks if each.verdict == "not run"],
            "note": "; ".join(each.note for each in failed)[:200]}  # fmt: skip


def main() -> None:
    parser = arguments(__doc__, ("all", "vllm", "table"))
    parser.add_argument("--vllm", default=None, help="the python of vLLM's environment")
    given = parser.parse_args()
    cases = Cases(given.out)
    others = [family for family in FAMILIES if family not in MATRIX_FAMILIES]
    families = {"all": [*MATRIX_FAMILIES, *others], "vllm": [VLLM_FAMILY]}.get(given.act, [])
    open_trial = functools.partial(CodedTrial, python=given.vllm)
    wanted = vllm_keys if given.act == "vllm" else keys
    try_all(cases, families[given.skip : given.families], given.seeds, wanted, open_trial, try_one)
    command = "python bench/sabotage_quantised.py all OUT, then vllm OUT --vllm PYTHON"
    write_table(cases, given.out / "sabotage-quantised.json", command, ("compressed-tensors", "auto-round"))


if __name__ == "__main__":
    main()
