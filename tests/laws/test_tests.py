"""Rules of the tests: none fails by chance, none asks a stand-in of our own what the real thing would do."""

import ast
import re

from source_kit import ROOT, TESTS, calls, modules, nodes_of, where

PROMISES_TIMES = ("tests/unit/serving/", "tests/journeys/test_serving")
"""What a server promises in seconds is asked in seconds."""


def files() -> list:
    return [path for path in modules(TESTS) if path.name.startswith("test_")]


def test_nobody_is_mocked() -> None:
    for path in modules(TESTS):
        for node in nodes_of(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"mock", "unittest.mock", "pytest_mock"} & set(names), where(path, node)


def test_a_skipped_test_says_what_is_missing() -> None:
    for path in modules(TESTS):
        for called, call in calls(path):
            words = {word.arg for word in call.keywords}
            if called in ("pytest.skip", "pytest.mark.skip"):
                assert call.args or "reason" in words, where(path, call)
            if called in ("pytest.mark.skipif", "pytest.mark.xfail"):
                assert "reason" in words, where(path, call)


def test_no_port_is_chosen_beforehand() -> None:
    """Whoever listens asks for port 0; two test processes on one machine do not meet."""
    for path in files():
        for called, call in calls(path):
            if called.rpartition(".")[2] in (
                "bind",
                "HTTPServer",
                "ThreadingHTTPServer",
                "start_server",
            ):
                ports = [node.value for one in call.args for node in ast.walk(one) if isinstance(node, ast.Constant)]
                assert not [port for port in ports if isinstance(port, int) and port > 1], where(path, call)


def test_nobody_waits_by_a_clock_of_its_own() -> None:
    """`until_true` has one patience for all; a deadline of a test's own is one that a busy machine misses."""
    for path in files():
        if not path.relative_to(ROOT).as_posix().startswith(PROMISES_TIMES):
            for node in nodes_of(path):
                waits = isinstance(node, ast.While) and re.search(
                    r"monotonic|perf_counter|time\(\)", ast.unparse(node.test)
                )
                assert not waits, f"{where(path, node)} waits by a clock"


def test_nothing_has_to_be_quick() -> None:
    """An upper bound of seconds tells of the machine; what may bound a time from above is a minute of patience."""
    for path in files():
        if not path.relative_to(ROOT).as_posix().startswith(PROMISES_TIMES):
            for node in (node for node in nodes_of(path) if isinstance(node, ast.Assert)):
                found = re.search(r"(?:monotonic|perf_counter)\(\) - \w+ <=? ([\d.]+)", ast.unparse(node.test))
                assert not found or float(found[1]) >= 60, where(path, node)


def test_examples_are_not_timed() -> None:
    """The profile of conftest.py says so once."""
    for path in files():
        assert "deadline" not in [word.arg for _, call in calls(path) for word in call.keywords], path
