"""The command line: parse, call the pipeline, print. Nothing is decided here."""
