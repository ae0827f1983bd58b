"""Is every spoilt export told from every honest one, by the program that reads it?

Briefly trained models of many families are exported in every format and read by whoever reads it: an adapter by PEFT, a
merged folder by transformers, GGUF and LoRA-GGUF by llama.cpp. `honest` counts false alarms over exports as they are;
`matrix` spoils one thing at a time and asks whether the reader's checks alone fail (what our own reading of the files
would have found besides is not counted); `modules` takes a tenth from each module in turn. One line of JSON a case goes
to OUT/cases.jsonl, so a run that was stopped goes on; `table` sums up.

    python bench/sabotage.py honest|matrix|modules|table OUT [--families N] [--skip N] [--seeds N]
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import sabotage_start  # noqa: F401 - first: before torch and transformers are

# isort: split
from sabotage_cases import MATRIX_FAMILIES, NUM_MODULES, Cases, Key, arguments, try_all, write_table

from danlu.core.errors import DanluError
from danlu.exports.parity import Check
from sabotage_harms import HARMS, applies, one_module
from sabotage_kit import FAMILIES, KINDS
from sabotage_trial import Trial

ACTS = ("honest", "matrix", "modules")


def keys(act: str, family: str, seed: int) -> Iterator[Key]:
    harms: dict[str, list[str]] = {
        "honest": [""], "matrix": list(HARMS), "modules": [f"module {number} at 0.9" for number in range(NUM_MODULES)],
    }  # fmt: skip
    for kind in KINDS:
        for harm in harms[act]:
            if act != "matrix" or applies(harm, kind):
                yield Key(act, family, seed, kind, harm)


def try_one(trial: Trial, key: Key) -> dict[str, Any]:
    if key.act == "honest":
        return told(trial.honest(key.kind))
    harm = HARMS[key.harm] if key.act == "matrix" else one_module(0.9, int(key.harm.split()[1]))
    until_failed = (
        key.act == "matrix" and key.family != MATRIX_FAMILIES[0]
    )  # which checks see it is asked of one family
    try:
        checks = trial.spoilt(key.kind, harm, until_failed=until_failed)
    except DanluError as error:  # the reader, or the writer itself, would not
        return {"failed": ["refused"], "note": error.text[:200]}
    return {"nothing": "nothing to spoil in this family"} if checks is None else told(checks)


def told(checks: list[Check]) -> dict[str, Any]:
    failed = [check for check in checks if check.verdict == "fail"]
    found = {check.name.partition("_")[2]: check for check in checks}
    figures: dict[str, Any] = {}
    if "logits" in found and found["logits"].numbers:
        numbers = found["logits"].numbers
        figures |= {key: numbers[key] for key in ("mean_kl", "floor_mean_kl", "max_abs", "floor_max_abs")}
    if "modules" in found:
        numbers = found["modules"].numbers
        figures |= {key: numbers[key] for key in ("least_arrived", "most_arrived", "largest_noise", "num_unshown")}
    if "stops" in found:
        figures["num_stops"] = found["stops"].numbers["num_stops"]
    idle = [check.name for check in checks if check.verdict == "not run"]
    return {"failed": [check.name.partition("_")[2] for check in failed], "not_run": idle, "figures": figures,
            "note": "; ".join(check.note for check in failed)[:300]}  # fmt: skip


def main() -> None:
    given = arguments(__doc__, (*ACTS, "table")).parse_args()
    cases = Cases(given.out)
    families = {"honest": list(FAMILIES), "matrix": list(MATRIX_FAMILIES), "modules": list(MATRIX_FAMILIES[:1])}
    chosen = families.get(given.act, [])[given.skip : given.families]
    try_all(cases, chosen, given.seeds, functools.partial(keys, given.act), Trial, try_one)
    command = "python bench/sabotage.py honest OUT, then matrix OUT, then modules OUT"
    write_table(cases, given.out / "sabotage.json", command, ("peft", "xllamacpp"))


if __name__ == "__main__":
    main()
