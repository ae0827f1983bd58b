"""danlu against its peers: one token file, one process per run, in turn; a table and a JSON file.

    python bench/race.py PLAN [--out OUT] [--systems danlu,unsloth] [--rounds 2] [--budget 270]
    python bench/race.py bf16-2k --device cpu --shape tiny --systems danlu,transformers_peft     (a rehearsal)
    python bench/race.py table RESULTS.json …                                                    (tables again)

A PLAN is a name of `race/cases.py`: `short`, `dense`, `lean`, …, or one case. Every run has its own process and time
limit; one that fails is a row with its reason. While one system trains, the next one's imports begin beside it; it is
stopped (SIGSTOP) while the measured steps run, so that they have the machine to themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def child(arguments: list[str]) -> None:
    from race import child

    child.main(Path(arguments[0]).read_text(), int(arguments[1]) if len(arguments) > 1 else None)


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2:])
        sys.stdout.flush()
        os._exit(0)  # libraries' threads must not hold a finished child
    if sys.argv[1:2] == ["table"]:
        from race.report import table

        for place in sys.argv[2:]:
            print(table(json.loads(Path(place).read_text())))
        return
    from race.cases import PLANS
    from race.course import Course

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", help=", ".join(PLANS))
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "race_out")))
    parser.add_argument("--device", choices=["cuda", "cpu"], help="another device than the case's own")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--systems", help="only these, in this order")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--shape", help="another shape for every case")
    parser.add_argument("--layers", type=int, help="fewer layers: a smoke run")
    parser.add_argument("--step-tokens", type=int, help="another number of tokens per step, rows in proportion")
    parser.add_argument("--warm", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--budget", type=float, default=560.0, help="seconds; what no longer fits is left out")
    parser.add_argument("--profile", type=int, default=0, help="so many more steps under the profiler, after the clock")
    parser.add_argument("--alone", action="store_true", help="no imports beside a running system")
    given = parser.parse_args()
    if given.plan not in PLANS:
        parser.error(f"no plan {given.plan}: {', '.join(PLANS)}")
    Course(given).run()


if __name__ == "__main__":
    main()
