"""`danlu` and `python -m danlu`: the command line, in whose loading Ctrl-C is no fault either."""

import os
import sys


def main() -> None:
    # Threads that spin while they wait for the next product make a busy machine several times slower (torch's OpenMP
    # reads this once, when it is loaded); whoever has set it has chosen.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        from danlu.cli.main import main as speak  # takes a moment

        speak()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
