"""From what children told to rates, the table, and whether the losses agree. No torch."""

from __future__ import annotations

import statistics
from typing import Any

from race.shapes import Shape
from race.tokens import TokenFile

PEAKS = ("peak_allocated_gib", "peak_reserved_gib", "peak_rss_gib")


def with_rates(row: dict[str, Any], tokens: TokenFile, shape: Shape) -> dict[str, Any]:
    """A run with its speeds: medians over the measured steps, each by its own tokens."""
    if "error" in row:
        return row
    times, first = row["step_ms"], row["num_warm"]
    steps = range(first, first + len(times))
    counted, learnt = (row[key][first : first + len(times)] for key in ("tokens", "supervised"))
    mfus = [
        shape.mfu(tokens.step_lengths(step), num, ms / 1000) for step, num, ms in zip(steps, learnt, times, strict=True)
    ]
    beside = {"tokens_per_cpu_s": round(sum(counted) / row["cpu_s"])} if row.get("cpu_s") else {}
    return (
        row
        | beside
        | {
            "ms": round(statistics.median(times), 2),
            "ms_low": round(min(times), 2),
            "ms_high": round(max(times), 2),
            "tokens_per_s": round(_rate(counted, times)),
            "supervised_per_s": round(_rate(learnt, times)),
            "mfu": round(statistics.median(mfus), 4),
            "same_tokens": row["token_file"] == tokens.sha256
            and all(seen == sum(tokens.step_lengths(step)) for step, seen in enumerate(row["tokens"]))
            and all(seen == tokens.num_supervised(tokens.steps[step]) for step, seen in enumerate(row["supervised"])),
        }
    )


def _rate(counts: list[int], times: list[float]) -> float:
    return statistics.median(1000 * count / ms for count, ms in zip(counts, times, strict=True))


def agreement(case: dict[str, Any]) -> dict[str, Any]:
    """First and last loss of each setting against the median of all whose base is bf16, within stated tolerances."""
    done = [run for run in case["runs"] if "losses" in run]
    plain = [run for run in done if run["base"] == "bf16" and run.get("order", "same") == "same"] or done
    if not plain:
        return {}
    ends = (("first", 0), ("last", -1))
    wanted = {at: statistics.median(run["losses"][place] for run in plain) for at, place in ends}
    found = {}
    for run in done:
        gaps = {at: run["losses"][place] - wanted[at] for at, place in ends}
        is_close = all(abs(gap) <= case["tolerance"][at] for at, gap in gaps.items())
        name = f"{run['system']} · {run['setting']} · round {run['round']}"
        found[name] = {"agrees": is_close, "same_tokens": run["same_tokens"]} | {
            at: round(gap, 5) for at, gap in gaps.items()
        }
    return {"loss": {at: round(value, 5) for at, value in wanted.items()}, "runs": found}


def summary(case: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per system and setting over its rounds, fastest first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in case["runs"]:
        groups.setdefault((run["system"], run["setting"]), []).append(run)
    rows = []
    for (system, setting), runs in groups.items():
        done = [run for run in runs if "tokens_per_s" in run]
        if not done:
            rows.append({"system": system, "setting": setting, "error": runs[0].get("error", "")})
            continue
        means = {
            key: statistics.median(run[key] for run in done)
            for key in ("tokens_per_s", "supervised_per_s", "mfu", "ms", "import_s", "load_s", "first_step_s")
        }
        peaks = {key: max(run[key] for run in done) for key in PEAKS if all(key in run for run in done)}
        rates = [run["tokens_per_s"] for run in done]
        spread = {"rounds": len(done), "lowest": min(rates), "highest": max(rates)}
        rows.append({"system": system, "setting": setting, **means, **peaks, **spread})
    return sorted(rows, key=lambda row: -row.get("tokens_per_s", 0))


def table(results: dict[str, Any]) -> str:
    """Markdown, one table per case; the factor is danlu's speed over the row's."""
    about = results["about"]
    lines = [
        "",
        f"{about['gpu'] or about['cpu']} · commit {about['commit']} · {about['date']}",
        f"`{about['command']}`",
    ]
    for name, case in results["cases"].items():
        rows = summary(case)
        own = next((row["tokens_per_s"] for row in rows if row["system"] == "danlu" and "tokens_per_s" in row), None)
        lines += [
            "",
            f"### {name}: {case['shape']['name']}, {case['step_tokens']} tokens a step, file {case['token_file'][:12]}",
            "| system | setting | tok/s | danlu is | learnt tok/s | ms/step | MFU | peak alloc / reserved GiB "
            "| import + load + first step s | rounds, lowest to highest tok/s |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_row(row, own) for row in rows]
        found = case.get("agreement") or {}
        if found:
            odd = [f"{who}: {gap}" for who, gap in found["runs"].items() if not (gap["agrees"] and gap["same_tokens"])]
            told = "all within" if not odd else "NOT all within"
            lines.append(f"losses {found['loss']['first']} → {found['loss']['last']}, {told} {case['tolerance']}")
            lines += odd
    return "\n".join(lines)


def _row(row: dict[str, Any], own: float | None) -> str:
    if "error" in row:
        return f"| {row['system']} | {row['setting']} | – | | | | | | | {row['error'][:140]} |"
    factor = f"{own / row['tokens_per_s']:.2f}×" if own and row["system"] != "danlu" else ""
    peaks = " / ".join(f"{row[key]:.1f}" for key in PEAKS if key in row)
    return (
        f"| {row['system']} | {row['setting']} "
        f"| {row['tokens_per_s']:,.0f} | {factor} | {row['supervised_per_s']:,.0f} "
        f"| {row['ms']:.1f} | {row['mfu']:.3f} | {peaks} "
        f"| {row['import_s']:.1f} + {row['load_s']:.1f} + {row['first_step_s']:.1f} "
        f"| {row['rounds']}, {row['lowest']:,.0f} to {row['highest']:,.0f} |"
    )


def line(run: dict[str, Any]) -> str:
    """One run, as it ends."""
    who = f"{run['system']:18s} {run['setting']:32s} round {run['round']}"
    if "error" in run:
        return f"{who}  {run['error'][:160]}"
    peak = f"{run[PEAKS[-1]]:6.1f} GiB" if PEAKS[-1] in run else f"{run.get(PEAKS[1], 0):6.1f} GiB"
    return (
        f"{who} {run['tokens_per_s']:9,.0f} tok/s {run['ms']:9.1f} ms [{run['ms_low']:.0f}, {run['ms_high']:.0f}] "
        f"mfu {run['mfu']:.3f} {peak} loss {run['losses'][0]:.4f} → {run['losses'][-1]:.4f} "
        f"cold {run['import_s']:.0f}+{run['load_s']:.0f}+{run['first_step_s']:.0f} s {run.get('device') or ''}"
        + ("" if run["same_tokens"] else "  OTHER TOKENS")
    )
