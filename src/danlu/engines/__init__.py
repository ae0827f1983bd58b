"""Engines answer: generate, stream, score. A shelf; `engine.py` is its contract, `native` runs here, `remote` asks a URL.

To add one: a class with the three methods of `engine.Engine` in a file here (or an entry point `danlu.engines`).
"""
