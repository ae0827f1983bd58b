"""`danlu doctor`: is this machine ready? Reads, never changes; torch, if there, is asked in its own process."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.cli.voice import Voice
from danlu.core.files import free_bytes
from danlu.core.messages import listed, say
from danlu.version import VERSION

EXTRAS = {
    "train": ("torch", "transformers", "sentencepiece", "peft"),
    "data": ("pyarrow", "openpyxl", "zstandard", "pypdfium2", "trafilatura"),
}
LABELS = {
    "RAM": "cli.doctor_memory",
    "disk": "cli.doctor_disk",
    "compute": "cli.doctor_compute",
    "offline": "cli.doctor_offline",
}
ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({
    "torch": torch.__version__, "threads": torch.get_num_threads(),
    "bf16_cpu": bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()),
    "gpus": [{"name": g.name, "bytes": g.total_memory, "bf16": (g.major, g.minor) >= (8, 0)} for g in gpus],
}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check; `fix` is empty when all is well."""

    name: str
    found: str
    ok: bool
    fix: str = ""


def doctor(voice: Voice) -> bool:
    """Print the findings; True when nothing needed is missing."""
    findings = [_python(), *_packages(), _memory(), _disk(), *_torch(), _embedded_base(), _privacy()]
    voice.table(
        [say("cli.col_check"), say("cli.col_found")],
        [
            (f"{'✓' if f.ok else '✗'} {_label(f.name)}", f.found if f.ok else say("cli.missing", fix=f.fix))
            for f in findings
        ],
        title=f"danlu {VERSION}",
    )
    ready = all(finding.ok for finding in findings)
    if ready:
        voice.say(say("cli.doctor_ready"), "green")
    rows = [{"check": f.name, "found": f.found, "ok": f.ok, "fix": f.fix} for f in findings]
    voice.result({"ok": ready, "danlu": VERSION, "checks": rows})
    return ready


def _label(name: str) -> str:
    """A check's name for people; scripts read the same one in every language."""
    return say(LABELS[name]) if name in LABELS else name


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("python", f"{platform.python_version()} · {platform.platform()}", ok, "Python ≥ 3.11")


def _packages() -> list[Finding]:
    findings = []
    for extra, names in EXTRAS.items():
        versions = {name: _version(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        fix = f'{", ".join(missing)} · pip install "danlu[{extra}]"'
        findings.append(Finding(f"danlu[{extra}]", found, not missing, fix))
    return findings


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> Finding:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Finding("RAM", "?", True)
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Finding("RAM", f"{size / 2**30:.1f} GiB · {os.cpu_count()} CPU", size > 4e9, "≥ 4 GB")


def _disk() -> Finding:
    free = free_bytes(Path.cwd())
    return Finding("disk", f"{free / 2**30:.1f} GiB", free > 2e9, "≥ 2 GB")


def _torch() -> list[Finding]:
    if _version("torch") is None:
        return []
    done = subprocess.run(  # noqa: S603  our own interpreter, a constant program
        [sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        return [Finding("torch", "", False, done.stderr.strip().splitlines()[-1] if done.stderr else "torch")]
    facts: dict[str, Any] = json.loads(done.stdout)
    gpus = [f"{g['name']} {g['bytes'] / 2**30:.0f} GiB{'' if g['bf16'] else ' (fp16)'}" for g in facts["gpus"]]
    bf16 = say("cli.yes") if facts["bf16_cpu"] else say("cli.no")
    found = say("cli.doctor_computes", bf16=bf16, threads=facts["threads"], gpus=listed(gpus) or "–")
    return [Finding("compute", found, True)]


def _embedded_base() -> Finding:
    weights = Path(__file__).parents[1] / "assets" / "ember" / "model.safetensors"
    return Finding(
        "ember", f"{weights.stat().st_size / 1e6:.1f} MB" if weights.exists() else "", weights.exists(), "ember"
    )


def _privacy() -> Finding:
    return Finding("offline", say("cli.doctor_no_telemetry"), True)
