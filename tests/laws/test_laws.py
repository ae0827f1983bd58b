"""The six laws of the house (docs/architecture.md), as far as a machine can hold us to them."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.core.shelf import Shelf
from source_kit import SRC, calls, functions, modules, nodes_of, text_of, tree_of, where

FLOORS = {
    "core": 1, "version": 1,
    "recipe": 2, "ops": 2,
    "data": 3, "model": 3, "run": 3, "planning": 3,
    "adapters": 4, "openai": 4,
    "training": 5, "engines": 5, "exports": 5,
    "evaluation": 6, "serving": 6,
    "pipeline": 7,
    "cli": 8,
}  # fmt: skip
ALLOWED_SIDEWAYS = {("exports", "engines")}  # parity asks engines; both stand on floor 5, engines know no exports
TORCH_FREE = ("openai", "core", "recipe", "run", "planning", "data", "evaluation", "serving", "engines", "cli")


def imports_of(path: Path) -> set[str]:
    """Every danlu module that a file imports anywhere, lazily too, as dotted names."""
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("danlu")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("danlu"):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_are_written_out() -> None:
    """Relative imports and names of modules as text would escape these laws; only shelves load by name."""
    for path in modules():
        for node in nodes_of(path):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{where(path, node)} imports relatively"
        may = path.name == "shelf.py" or own_room(path) in ("cli", "__init__")  # nothing stands above these two
        for called, call in calls(path):
            assert not called.endswith("import_module") or may, f"{where(path, call)} imports by name"


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
    native = (
        "api",
        "cached_attention",
        "classes",
        "cuda_attention",
        "cuda_choice",
        "cuda_codes",
        "cuda_lenses",
        "cuda_pages",
        "cuda_rows",
        "cuda_step",
        "cuda_weights",
        "decoding",
        "kv_tables",
        "lenses",
        "live",
        "looped",
        "loops",
        "native",
        "packed",
        "parallel",
        "plain",
        "pointwise",
    )
    with_torch = {f"danlu.engines.{name}" for name in (*native, "products", "rows", "sampling", "server")}
    wanted = [
        "danlu." + ".".join(path.relative_to(SRC).with_suffix("").parts)
        for path in modules()
        if own_room(path) in TORCH_FREE
    ]
    wanted = [name.removesuffix(".__init__") for name in wanted if name not in with_torch]
    code = (
        f"import importlib, sys\nfor name in {wanted!r}:\n    importlib.import_module(name)\n"
        "    bad = {'torch', 'transformers'} & set(sys.modules)\n    assert not bad, (name, bad)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def shelves() -> dict[str, dict[str, str]]:
    """Package of each shelf and what stands on it: name to module."""
    found = {}
    for path in modules():
        if re.search(r"^[A-Z_]+: Shelf\[", text_of(path), re.M) and own_room(path) != "core":
            package = ".".join(("danlu", *path.parent.relative_to(SRC).parts))
            (shelf,) = (item for item in vars(importlib.import_module(package)).values() if isinstance(item, Shelf))
            found[package] = {name: place.partition(":")[0] for name, place in shelf.places.items()}
    return found


def test_law_4_every_shelf_is_found() -> None:
    assert {shelf.rpartition(".")[2] for shelf in shelves()} == {
        "adapters", "augment", "cleaners", "detectors", "drivers", "engines", "executors", "exports", "families",
        "formats", "harnesses", "methods", "metrics", "ocr", "quantizers", "readers", "sources", "tasks", "templates", "trackers",
    }  # fmt: skip


@pytest.mark.parametrize("shelf", shelves())
def test_law_4_things_on_a_shelf_do_not_import_each_other(shelf: str) -> None:
    items = set(shelves()[shelf].values())
    assert len(items) > 1, "a shelf holds things"
    for item in sorted(items):
        assert item.startswith(f"{shelf}."), f"{item} lies elsewhere"
        path = SRC.joinpath(*item.split(".")[1:]).with_suffix(".py")
        neighbours = (imports_of(path) - {item}) & items
        assert not neighbours, f"{item} imports its neighbours {neighbours}"


DOORS = re.compile(r"__init__$|(build|open)(_|$)")
SECTIONS_GO_ON = {"identify"}
"""What goes by all of a section by its nature: a training's name is a digest of it."""


@pytest.mark.parametrize("room", ["core", "openai", "ops", "model", "adapters", "training", "engines", "evaluation"])
def test_law_5_config_stops_at_constructors(room: str) -> None:
    for path in modules(SRC / room):
        for function in functions(path):
            given = [*function.args.args, *function.args.kwonlyargs]
            sections = [ast.unparse(one.annotation) for one in given if one.annotation]
            takes = [kind for kind in sections if re.search(r"\w+Section\b|\bRecipe\b", kind)]
            may = DOORS.match(function.name) or function.name in SECTIONS_GO_ON
            assert not takes or may, f"{where(path, function)} {function.name} takes {takes}"


FORBIDDEN_WORDS = {
    "utils", "util", "common", "misc", "helper", "helpers", "manager", "wrapper", "handle", "handler", "manage", "process",
}  # fmt: skip


def test_law_6_no_room_without_a_meaning() -> None:
    for path in modules():
        assert not {path.stem, *path.relative_to(SRC).parts} & FORBIDDEN_WORDS, path


def test_law_6_no_name_without_a_meaning() -> None:
    for path in modules():
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                words = set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name).lower().split("_"))
                assert not words & (FORBIDDEN_WORDS - {"common"}), f"{where(path, node)} {node.name}"


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
        for node in nodes_of(path):
            asked = node if isinstance(node, ast.Compare) else node.subject if isinstance(node, ast.Match) else None
            assert asked is None or "model_type" not in ast.dump(asked), f"{where(path, node)} compares model_type"
