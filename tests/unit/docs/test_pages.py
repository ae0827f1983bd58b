"""What the pages promise is there: files, commands, shelves, and the code that they show."""

import re
from pathlib import Path

import pytest
import typer

import danlu
from danlu.cli.main import app
from danlu.cli.shelves import SHELVES
from danlu.data.sample import Message
from danlu.evaluation.items import Item
from danlu.evaluation.metrics import Verdict
from danlu.model.families.family import Config, Family, base_shape, rope
from danlu.model.spec import Spec

ROOT = Path(__file__).parents[3]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("README*.md")),
    *sorted(ROOT.glob("CONTRIBUTING*.md")),
]
SOURCE = Path(danlu.__file__).parent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = page.read_text(encoding="utf-8")
    shown = set(re.findall(r"`danlu ([a-z]+)", text))
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        shown |= set(re.findall(r"^danlu ([a-z]+)", block, re.MULTILINE))
    assert shown <= verbs, shown - verbs


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "docs").glob("*/*.md"))], ids=lambda page: page.name)
def test_options_of_commands_exist(page):
    """Both READMEs made a key with an option that had got another name."""
    shown = re.findall(r"`(danlu [^`\n]+)`", page.read_text(encoding="utf-8")) + _commands(page)
    for line in (line for line in shown if line.startswith("danlu ")):
        command = typer.main.get_command(app)
        for word in re.split("[|;&]", line)[0].split()[1:]:
            if re.match("--[a-z]", word):
                known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
                assert re.match("--[a-z-]+", word)[0] in known | {"--help"}, f"{page.name}: {line}"
            else:
                command = getattr(command, "commands", {}).get(word, command)


def test_both_tours_give_the_same_commands():
    english, chinese = (_commands(ROOT / "docs" / name) for name in ("tour.md", "tour.zh.md"))
    english.remove("danlu check bad.yaml training.epoch=3")  # told in words on the other page
    assert english == chinese


def _commands(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [
        line.partition("  #")[0].replace(" --lang zh", "").strip() for block in blocks for line in block.splitlines()
    ]
    return [line for line in lines if line]


PLACE = re.compile(r"^## .*`([a-z/]+)/`(?:(?:, contract |，契约 )`([a-z]+\.py)`)?", re.MULTILINE)


@pytest.mark.parametrize("page", ["adding.md", "adding.zh.md"])
def test_the_page_on_adding_knows_the_places(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    places = PLACE.findall(text)
    for folder, contract in places:
        assert (SOURCE / folder / contract).exists(), f"{folder}/{contract}"
    for path in re.findall(r"`((?:recipe|pipeline|data|evaluation|cli)/[a-z/]+\.py)`", text):
        assert (SOURCE / path).is_file(), path
    told = {SOURCE / folder for folder, _ in places}
    ours = {name: SOURCE.parent.joinpath(*place.partition(":")[0].split(".")) for name, place in SHELVES.items()}
    untold = {name for name, folder in ours.items() if folder not in told}
    assert untold == {"engines", "executors"}, "shelves of which the page tells nothing"


@pytest.mark.parametrize("name", ["adding", "reference"])
def test_both_languages_of_a_page_show_the_same(name):
    """Headings that name a place, blocks, links, rows of tables and words in code: all but the prose."""
    english, chinese = ((ROOT / "docs" / f"{name}{end}").read_text(encoding="utf-8") for end in (".md", ".zh.md"))
    assert PLACE.findall(english) == PLACE.findall(chinese)
    for shape in (r"```\w*\n.*?```", r"^## ", r"^\| `"):
        assert [*re.findall(shape, english, re.M | re.S)] == [*re.findall(shape, chinese, re.M | re.S)], shape
    assert _words(english) == _words(chinese)


def _words(text: str) -> set[str]:
    """Names in code, as far as they are no example in the reader's language."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return {word for word in re.findall(r"`([^`]+)`", prose) if re.fullmatch(r"[a-z_./\-]+", word)}


def _blocks_of_adding() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_metric_that_the_page_shows_judges():
    names: dict[str, object] = {"re": re, "Item": Item, "Verdict": Verdict}
    exec(_blocks_of_adding()[0], names)
    metric = names["Digits"]()  # type: ignore[operator]
    item = Item("1", (Message("user", "?"),), "80")
    assert metric.score("80 yuan, not 60", item).right
    assert not metric.score("60 yuan, not 80", item).right


def test_the_family_that_the_page_shows_reads_a_config():
    names: dict[str, object] = {
        "Config": Config,
        "Family": Family,
        "Spec": Spec,
        "base_shape": base_shape,
        "rope": rope,
    }
    exec(_blocks_of_adding()[1], names)
    config = {"model_type": "mine", "vocab_size": 8, "hidden_size": 16, "intermediate_size": 32,
              "num_hidden_layers": 2, "num_attention_heads": 4}  # fmt: skip
    family = names["FAMILY"]
    assert isinstance(family, Family)
    assert family.spec(config).num_layers == 2
