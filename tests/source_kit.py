"""The code as laws read it: every file of the package and of the tests, parsed once.

`python tests/source_kit.py` prints the portrait: how long files and functions are, and what there is of every thousand
lines of what should be rare.
"""

from __future__ import annotations

import ast
import functools
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "danlu"
TESTS = ROOT / "tests"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def modules(folder: Path = SRC) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree_of(path)))


def where(path: Path, node: ast.AST) -> str:
    folder = next(folder for folder in (SRC, ROOT) if path.is_relative_to(folder))
    return f"{path.relative_to(folder)}:{getattr(node, 'lineno', 0)}"


def functions(path: Path) -> Iterator[Function]:
    return (node for node in nodes_of(path) if isinstance(node, Function))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the dotted name that it calls; what is called of no name begins with a dot."""
    for node in nodes_of(path):
        if isinstance(node, ast.Call):
            parts, called = list[str](), node.func
            while isinstance(called, ast.Attribute):
                parts.append(called.attr)
                called = called.value
            yield ".".join([called.id if isinstance(called, ast.Name) else "", *reversed(parts)]), node


def late_imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Those inside functions."""
    inside = {id(node): node for function in functions(path) for node in ast.walk(function)}
    return [node for node in inside.values() if isinstance(node, ast.Import | ast.ImportFrom)]


def broad_handlers(path: Path) -> list[ast.ExceptHandler]:
    """Those that catch whatever comes."""
    handlers = [node for node in nodes_of(path) if isinstance(node, ast.ExceptHandler)]
    return [one for one in handlers if one.type is None or re.search(r"\b(Base)?Exception\b", ast.unparse(one.type))]


def portrait(folder: Path = SRC) -> dict[str, float]:
    files = [len(text_of(path).splitlines()) for path in modules(folder)]
    spans = sorted((one.end_lineno or 0) - one.lineno + 1 for path in modules(folder) for one in functions(path))
    per_thousand = 1000 / sum(files)
    return {
        "files": len(files),
        "lines": sum(files),
        "median file": statistics.median(files),
        "longest file": max(files),
        "mean function": round(statistics.mean(spans), 1),
        "p95 function": spans[int(0.95 * len(spans))],
        "late imports per 1000 lines": round(
            sum(len(late_imports(path)) for path in modules(folder)) * per_thousand, 2
        ),
        "broad excepts per 1000 lines": round(
            sum(len(broad_handlers(path)) for path in modules(folder)) * per_thousand, 2
        ),
    }


if __name__ == "__main__":
    for name, folder in (("src", SRC), ("tests", TESTS)):
        print(name, *(f"{key} {value}" for key, value in portrait(folder).items()), sep=" · ")
