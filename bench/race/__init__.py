"""The race's parts: shapes and arithmetic, the token file, cases, one child process, and the shelf of systems.

To add a system: a file in `systems/` with `run(job, recorder)` (see `systems/__init__.py`) and a line in `cases.py`.
"""
