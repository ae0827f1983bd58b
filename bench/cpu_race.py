"""danlu against TRL + PEFT on a CPU: `race.py`'s cases cpu-25m and cpu-0.5b, TRL swept to its best options.

    python bench/cpu_race.py 25m|0.5b [--out OUT] [--threads 2] [--rounds 1]

Wants a quiet machine, for wall time is what counts; tokens per CPU second and the load stand beside it. Each case takes
five to eight minutes on two cores. TRL and datasets must be importable (see README.md).
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    shape, *rest = sys.argv[1:] or ["25m"]
    usual = {"--threads": "2", "--budget": "470"}
    chosen = [part for name, value in usual.items() if name not in rest for part in (name, value)]
    script = Path(__file__).resolve().with_name("race.py")
    sys.argv = [str(script), f"cpu-{shape}", *rest, *chosen]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
