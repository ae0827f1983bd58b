"""`python -m danlu` is `danlu`."""

from danlu.cli.main import main

main()
