"""`danlu` and `python -m danlu`: the command line, in whose loading Ctrl-C is no fault either."""

import sys


def main() -> None:
    try:
        from danlu.cli.main import main as speak  # takes a moment

        speak()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
