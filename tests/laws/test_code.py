"""Rules of the code that a machine can see: what is opened and run, what is caught, imported late, or left unsaid."""

import ast
import re
import subprocess

import pytest

from source_kit import (
    ROOT,
    SRC,
    broad_handlers,
    calls,
    functions,
    late_imports,
    modules,
    nodes_of,
    portrait,
    text_of,
    tree_of,
    where,
)

MAY_READ_ENVIRONMENT = {
    "core/messages/__init__.py",  # the terminal's language
    "__main__.py",  # OpenMP's own variable: what the user chose stays
    "engines/remote.py",  # the variable that the user named for the key
    "pipeline/examine.py",  # what of it a suite's own process is given
    "serving/spawning.py",  # what of it engines and workers are given
    "serving/drivers/keeper.py",  # what an engine is given, and its key
    "pipeline/rank.py",  # which of several processes it is, as torchrun says it
    "pipeline/start_ranks.py",  # the same, said to them
    "pipeline/device.py",  # torch's own variable for its allocator: what the user chose stays
}


def test_the_environment_decides_nothing() -> None:
    for path in modules():
        if path.relative_to(SRC).as_posix() not in MAY_READ_ENVIRONMENT:
            assert not re.search(r"\bos\.environ\b|\bgetenv\b", text_of(path)), f"{path} reads the environment"


UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
UNSAFE_CALLS = {"torch.load", "torch.save", "eval", "exec", "os.system", "os.popen", "yaml.load", "__import__"}


def test_nothing_opens_pickles_or_runs_strangers_code() -> None:
    """CVE-2025-32434, CVE-2026-24747 (torch.load), CVE-2026-22807 (auto_map), CVE-2024-52803 (shell=True)."""
    for path in modules():
        for node in nodes_of(path):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not {name.split(".")[0] for name in names} & UNSAFE_MODULES, (
                    f"{where(path, node)} imports {names}"
                )
        for called, node in calls(path):
            assert called not in UNSAFE_CALLS, f"{where(path, node)} calls {called}"
            for word in node.keywords:
                if word.arg in ("trust_remote_code", "allow_pickle", "shell"):
                    assert ast.unparse(word.value) == "False", f"{where(path, node)} says {ast.unparse(word)}"


def test_every_file_says_what_it_is() -> None:
    silent = [path for path in modules() if text_of(path).strip() and not ast.get_docstring(tree_of(path))]
    assert not silent, f"files without an opening docstring: {silent}"


def test_every_assert_says_what_does_not_hold() -> None:
    for path in modules():
        for node in nodes_of(path):
            assert not isinstance(node, ast.Assert) or node.msg, f"{where(path, node)} is mute"


def test_whatever_is_caught_goes_on_or_has_an_answer() -> None:
    """Who catches everything raises it again, or says on the line why nobody else has to hear of it."""
    for path in modules():
        lines = text_of(path).splitlines()
        for handler in broad_handlers(path):
            goes_on = any(isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler))
            assert goes_on or "#" in lines[handler.lineno - 1], f"{where(path, handler)} swallows without a word"


def test_a_late_import_has_its_reason() -> None:
    """On its line, or once for those that stand together."""
    for path in modules():
        lines = text_of(path).splitlines()
        for node in late_imports(path):
            above = node.lineno - 2
            while re.match(r"\s*((import|from)\s[^#]*)?$", lines[above]):
                above -= 1
            here = "".join(lines[node.lineno - 1 : node.end_lineno])
            has_reason = "#" in here or re.match(r"\s*(#|(import|from)\s.*#)", lines[above])
            assert has_reason, f"{where(path, node)} imports late without a reason"


def test_arguments_are_written_out() -> None:
    """Named values of a message or an event are values; `**kwargs` hands on what nobody has read."""
    for path in modules():
        for function in functions(path):
            named = function.args.kwarg
            may = path.name == "sandbox.py"  # templates call as they please
            assert named is None or named.arg not in ("kwargs", "options", "args") or may, where(path, function)


def test_nothing_is_put_off_in_a_comment() -> None:
    for path in modules():
        assert not (found := re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text_of(path))), f"{path}: {found}"


MACHINES = re.compile(r"(?<![\w.$}/-])/(?:work|root|home/\w+|Users/\w+)/\w")


def test_the_project_speaks_of_itself_alone() -> None:
    """No place on the machine where something was written stands in what is published."""
    named = subprocess.run(["git", "ls-files", "-z", "*.py", "*.md", "*.toml", "*.yaml", "*.json", "*.sh", "Makefile"],
                           cwd=ROOT, capture_output=True, text=True, check=False)  # fmt: skip
    if named.returncode:
        pytest.skip("not a checkout: nobody knows which files are published")
    for name in filter(None, named.stdout.split("\0")):
        path = ROOT / name
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        assert not (found := MACHINES.search(text)), f"{name}: {text[found.start() - 20 : found.end() + 20]!r}"


def test_the_portrait_stays_what_it_is() -> None:
    """`python tests/source_kit.py` shows it. A file of 400 lines is read in one sitting; none may grow far beyond."""
    found = portrait()
    assert found["longest file"] <= 420 and found["median file"] <= 120, found
    assert found["mean function"] <= 12 and found["p95 function"] <= 30, found
    assert found["late imports per 1000 lines"] <= 0.9 and found["broad excepts per 1000 lines"] <= 0.2, found
