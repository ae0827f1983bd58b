"""The six laws of the house (docs/architecture.md), as far as a machine can hold us to them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "danlu"

FLOORS = {
    "core": 1, "version": 1,
    "recipe": 2, "ops": 2,
    "data": 3, "model": 3, "run": 3, "planning": 3,
    "adapters": 4, "console": 4,
    "training": 5, "engines": 5, "exports": 5,
    "evaluation": 6, "serving": 6,
    "pipeline": 7,
    "cli": 8,
}  # fmt: skip
ALLOWED_SIDEWAYS = {("exports", "engines")}  # parity asks engines; both stand on floor 5, engines know no exports
TORCH_FREE = ("core", "recipe", "run", "planning", "data", "evaluation", "engines", "cli")
SHELVES = (
    "model/families",
    "data/formats",
    "data/templates",
    "evaluation/metrics",
    "evaluation/tasks",
    "training/methods",
    "adapters",
    "engines",
    "exports",
)


def modules() -> list[Path]:
    return sorted(path for path in SRC.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Every danlu module that a file imports anywhere, lazily too, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("danlu")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("danlu"):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else None


def own_room(path: Path) -> str:
    part = path.relative_to(SRC).parts[0]
    return part.removesuffix(".py")


def test_every_room_has_a_floor() -> None:
    rooms = {own_room(path) for path in modules()} - {"__init__", "__main__", "assets"}
    assert rooms <= set(FLOORS), f"rooms without a floor: {rooms - set(FLOORS)}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SRC)))
def test_law_1_imports_go_down_only(path: Path) -> None:
    here = own_room(path)
    if here in ("__init__", "__main__"):
        return
    for dotted in imports_of(path):
        there = room_of(dotted)
        if there is None or there == here or there not in FLOORS:
            continue
        sideways = (here, there) in ALLOWED_SIDEWAYS
        assert FLOORS[there] < FLOORS[here] or sideways, f"{here} (floor {FLOORS[here]}) imports {dotted}"


def test_law_1_no_circles() -> None:
    names = {path: "danlu." + ".".join(path.relative_to(SRC).with_suffix("").parts) for path in modules()}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    graph = {names[p]: {d for d in imports_of(p) if d in set(names.values()) and d != names[p]} for p in modules()}
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, f"circle: {' > '.join((*trail[trail.index(node) :], node))}"
        if node in done:
            return
        for other in graph[node]:
            visit(other, (*trail, node))
        done.add(node)

    for node in graph:
        visit(node, ())


def test_law_2_lower_and_outer_rooms_are_torch_free() -> None:
    heavy = ("danlu.engines.native",)
    wanted = [
        "danlu." + ".".join(path.relative_to(SRC).with_suffix("").parts)
        for path in modules()
        if own_room(path) in TORCH_FREE
    ]
    wanted = [name.removesuffix(".__init__") for name in wanted if not name.startswith(heavy)]
    wanted = [name for name in wanted if name not in ("danlu.engines.sampling",)]
    code = (
        f"import importlib, sys\nfor name in {wanted!r}:\n    importlib.import_module(name)\n"
        "    bad = {'torch', 'transformers'} & set(sys.modules)\n    assert not bad, (name, bad)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shelf", SHELVES)
def test_law_4_things_on_a_shelf_do_not_import_each_other(shelf: str) -> None:
    folder = SRC / shelf
    if not folder.exists():
        pytest.skip(f"{shelf} is not built yet")
    contract_names = {"__init__", folder.name.rstrip("s"), "method", "family", "metric", "task", "export", "manifest",
                      "engine", "adapter", "format", "template", "names", "common", "base"}  # fmt: skip
    registry = (folder / "__init__.py").read_text(encoding="utf-8")
    items = {p.stem for p in folder.glob("*.py") if p.stem not in contract_names and f".{p.stem}:" in registry}
    for item in items:
        for dotted in imports_of(folder / f"{item}.py"):
            last = dotted.removeprefix("danlu." + shelf.replace("/", ".") + ".").split(".")[0]
            assert last == item or last not in items, f"{shelf}/{item} imports its neighbour {last}"


FORBIDDEN_WORDS = {"utils", "util", "common", "misc", "helper", "helpers", "manager", "wrapper", "handle", "manage"}


def test_law_6_no_room_without_a_meaning() -> None:
    for path in modules():
        assert not {path.stem, *path.relative_to(SRC).parts} & FORBIDDEN_WORDS, path


def test_nobody_imports_cli_and_only_cli_imports_pipeline() -> None:
    for path in modules():
        rooms = {room_of(dotted) for dotted in imports_of(path)}
        here = own_room(path)
        if here not in ("cli", "__main__"):
            assert "cli" not in rooms, path
        if here not in ("cli", "pipeline", "__init__"):
            assert "pipeline" not in rooms, path


def test_model_type_is_asked_only_in_families() -> None:
    for path in modules():
        if "families" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and "model_type" in ast.dump(node.left):
                assert False, f"{path.relative_to(SRC)}:{node.lineno} compares model_type"  # noqa: B011


def test_every_file_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(SRC))
        for path in modules()
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert not silent, f"files without an opening docstring: {silent}"


def test_nothing_opens_pickles() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "pickle.load", "pickle.loads", "torch.save"), (
                    f"{path.relative_to(SRC)}:{node.lineno} calls {called}"
                )
