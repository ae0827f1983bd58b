"""`danlu serve` looks at everything before anything starts, and says what is wrong."""

import json
import os
import socket
import stat
import subprocess
import sys

import pytest
from lens_kit import make_adapter, make_base, make_merged, register

from danlu.core.errors import DanluError, RunError
from danlu.pipeline.serve import check_serving, prepare_serving
from danlu.pipeline.serve_look import BaseFinder
from danlu.pipeline.serve_targets import read_targets
from danlu.recipe.recipe import Recipe
from danlu.recipe.serving import ServingSection, WebhookSection
from danlu.run.artifact import Manifest
from danlu.run.run import Run
from danlu.serving import control
from danlu.serving.caps import Caps
from danlu.serving.known_servers import KnownServers
from danlu.serving.line import reachable
from danlu.serving.settings import Settings, caps_of
from worker_kit import make_certificate


def no_run(target: str) -> Run:
    raise RunError("cli.no_target", given=target)


@pytest.fixture
def artefacts(tmp_path):
    """`<runs>/law` and `/medicine`, adapters; `/whole`, a merged model; the base where a bundle lays it."""
    runs = tmp_path / "runs"
    (runs / "bases").mkdir(parents=True)
    (runs / "bases" / "notes.txt").write_text("no base")
    (runs / "bases" / "other").mkdir()
    base = runs / "bases" / "tiny"
    base.mkdir()
    make_base(base)
    for seed, name in enumerate(("law", "medicine")):
        make_adapter(runs / name, base, name=name, seed=seed)
    make_merged(runs / "whole", base)
    return runs


def prepare(runs, targets, section=None, **more):
    section = section or ServingSection(port=0)
    return prepare_serving(read_targets(targets, section, runs, no_run), section, runs, **more)


def test_two_experts_share_a_base_and_a_whole_model_stands_alone(artefacts):
    runs = artefacts
    serving = prepare(runs, [str(runs / "law"), f"medicine={runs / 'medicine'}", str(runs / "whole")])
    assert [(told.model, told.driver) for told in serving.models] == [
        (name, "native") for name in ("law", "medicine", "whole")
    ]
    assert [choice.names for choice in serving.choices] == [("law", "medicine"), ("whole",)]
    assert serving.choices[0].plan.spec.folder == runs / "bases" / "tiny"
    assert (
        serving.url.startswith("http://127.0.0.1:")
        and serving.num_keys == 0
        and "danlu keys create" in serving.notes[0]
    )
    later = serving.pool_for(runs / "medicine", Manifest.read(runs / "medicine"))
    assert later.name == serving.choices[0].plan.name  # what the registry points at later finds its pool
    serving.close()


def test_versions_of_the_registry_are_followed_or_pinned(artefacts):
    runs = artefacts
    register(runs, runs / "law")
    (one, other) = read_targets(["law:1", "zh=law:1"], ServingSection(), runs, no_run)
    assert (one.name, one.label, other.name) == ("law", "law:1", "zh")
    with pytest.raises(RunError, match="called law"):
        read_targets(["law:1", str(runs / "law")], ServingSection(), runs, no_run)


def test_urls_need_a_name(artefacts):
    with pytest.raises(RunError, match="needs a name"):
        read_targets(["http://127.0.0.1:11434/v1"], ServingSection(), artefacts, no_run)
    (one,) = read_targets(["big=http://127.0.0.1:11434/v1"], ServingSection(), artefacts, no_run)
    assert (one.name, one.url) == ("big", "http://127.0.0.1:11434/v1")
    section = ServingSection.model_validate(
        {"port": 0, "models": {"big": {"target": "http://h/v1", "model": "qwen", "artifact": str(artefacts / "law")}}}
    )
    serving = prepare(artefacts, [], section)
    (offer,) = serving.offers
    assert offer.url is not None and offer.url.spec.name == "qwen" and offer.artifact == artefacts / "law"
    serving.close()


def test_a_password_in_a_url_is_refused_at_once_and_shown_nowhere(artefacts):
    with pytest.raises(DanluError) as refusal:
        prepare(artefacts, ["far=http://user:hunter2@10.0.0.5:8000/v1"])
    assert refusal.value.key.endswith("bad_url") and "hunter2" not in refusal.value.text


@pytest.mark.parametrize("manifest", [b"", b'{"a":', b"[]", b"{}", b"\xff\xfe"])
def test_a_torn_manifest_is_told_to_people(artefacts, manifest):
    """A copy that was cut off ended `danlu serve` with a traceback."""
    (artefacts / "law" / "artifact.json").write_bytes(manifest)
    with pytest.raises(DanluError):
        prepare(artefacts, [str(artefacts / "law")])


def test_the_first_key_is_made_once_and_only_for_this_machine(artefacts, tmp_path):
    runs, account = artefacts, tmp_path / "account"
    serving = prepare(runs, [str(runs / "law")], makes_key=True, account=account)
    assert serving.first_key.startswith("dl-")
    place = KnownServers(account).place_of(serving.url)
    assert (place / "key").read_text().strip() == serving.first_key
    assert stat.S_IMODE((place / "key").stat().st_mode) == 0o600
    serving.close()
    again = prepare(runs, [str(runs / "law")], makes_key=True, account=account)
    assert again.first_key == "" and again.num_keys == 1
    again.close()


def test_nobody_is_let_in_from_outside_before_there_is_a_key(artefacts, tmp_path):
    """Not even one that would be made on the way: it would be printed into a container's log."""
    runs = artefacts
    cert, key = make_certificate(tmp_path)
    tls = {"cert": str(cert), "key": str(key)}
    with pytest.raises(RunError) as caught:
        prepare(runs, [str(runs / "law")], ServingSection(host="0.0.0.0", port=0, tls=tls), makes_key=True)
    assert caught.value.key == "serve.no_keys"
    prepare(runs, [str(runs / "law")], makes_key=True).close()
    with pytest.raises(RunError) as caught:
        prepare(runs, [str(runs / "law")], ServingSection(host="0.0.0.0", port=0))
    assert caught.value.key == "serve.no_tls"
    serving = prepare(
        runs, [str(runs / "law")], ServingSection(host="0.0.0.0", port=0, tls=tls, metrics_host="0.0.0.0")
    )
    assert serving.url.startswith("https://") and len(serving.notes) == 1
    serving.close()


def test_an_adapter_is_never_put_on_another_base(artefacts):
    """Fluent nonsense: the folder has the right name, and somebody fine-tuned it since."""
    runs = artefacts
    manifest = Manifest.read(runs / "law")
    assert BaseFinder(runs).find(runs / "law", manifest) == runs / "bases" / "tiny"
    (runs / "bases" / "tiny" / "model.safetensors").rename(runs / "bases" / "gone")
    with pytest.raises(RunError) as caught:
        prepare(runs, [str(runs / "law")])
    assert caught.value.key == "serve.no_base" and str(runs / "bases") in caught.value.fix


def test_what_was_changed_since_its_proof_is_not_served(artefacts):
    (artefacts / "law" / "adapter_config.json").write_text("{}")
    with pytest.raises(DanluError):
        prepare(artefacts, [str(artefacts / "law")])


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"tls": {"cert": "/none.pem", "key": "/none.key"}}, "serve.no_file"),
        ({"webhooks": [{"url": "http://hook.example/x", "key_file": "/none"}]}, "serve.hook_plain"),
        ({"limits": {"kind": "redis", "url_file": "/none"}}, "serve.no_file"),
        ({"store": {"kind": "postgres", "url_file": "/none"}}, "serve.no_file"),
        ({"host": "no such host.invalid"}, "serve.bad_host"),
        ({"engine": "vllm"}, "drivers.not_this"),
        ({"engine": "upstream"}, "serve.upstream_only"),
    ],
)
def test_what_cannot_work_is_said_first(artefacts, section, key):
    with pytest.raises(DanluError) as caught:
        prepare(artefacts, [str(artefacts / "law")], ServingSection.model_validate({"port": 0} | section))
    assert caught.value.key == key


def test_a_check_makes_nothing_and_takes_nothing(artefacts):
    """Asked for on a terminal it made a first key that nobody was shown."""
    section = ServingSection(port=0)
    wanted = read_targets([str(artefacts / "law")], section, artefacts, no_run)
    checked = check_serving(wanted, section, artefacts)
    checked.close()
    assert [each.model for each in checked.models] == ["law"] and (checked.num_keys, checked.first_key) == (0, "")
    assert not (artefacts / "serving").exists()


def test_a_check_says_as_json_what_would_be_served(artefacts):
    """It said nothing at all."""
    words = [sys.executable, "-m", "danlu", "serve", str(artefacts / "law"), "serving.port=0", "--check", "--json"]
    done = subprocess.run([*words, "--runs", str(artefacts)], capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert done.returncode == 0 and [each["model"] for each in told["models"]] == ["law"], done.stderr
    assert told["choices"][0]["driver"] == "native" and not (artefacts / "serving").exists()


def test_a_check_looks_beside_a_server_that_runs(artefacts):
    """It was refused: who wanted to know whether a reload would be taken had to ask the server itself."""
    port = prepare(artefacts, [str(artefacts / "law")], makes_key=True).listener.getsockname()[1]
    home = artefacts / "serving"
    before = {path: path.stat().st_mtime_ns for path in home.iterdir() if path.name != "serving.db-shm"}
    section = ServingSection(port=port)
    wanted = read_targets([str(artefacts / "law"), str(artefacts / "medicine")], section, artefacts, no_run)
    with socket.create_server(("127.0.0.1", port)) as theirs, pytest.raises(RunError) as taken:
        check_serving(wanted, section, artefacts)
    assert taken.value.key == "serve.port_taken", "by somebody else"
    with (
        socket.create_server(("127.0.0.1", port)) as theirs,
        reachable(home / control.NAME) as name,
        socket.socket(socket.AF_UNIX) as door,
    ):
        door.bind(name)
        door.listen()
        checked = check_serving(wanted, section, artefacts)
        checked.close()
        assert [each.model for each in checked.models] == ["law", "medicine"] and checked.num_keys == 1
        assert checked.url == f"http://127.0.0.1:{port}" and any(
            "was left alone" in n or "left it alone" in n for n in checked.notes
        )
        with pytest.raises(RunError) as second:
            prepare(artefacts, [str(artefacts / "law")], section)
        assert second.value.key == "rollout.is_running" and theirs.fileno() > 0
    now = {
        path: path.stat().st_mtime_ns for path in home.iterdir() if path.name not in ("serving.db-shm", control.NAME)
    }
    assert now == before, "nothing was written"


def test_a_run_is_served_by_its_adapter(tmp_path, artefacts):
    run = Run.create(Recipe.from_tree({"name": "law"}), tmp_path / "more")
    make_adapter(run.path("artifacts", "adapter"), artefacts / "bases" / "tiny", name="law")
    make_merged(run.path("artifacts", "merged"), artefacts / "bases" / "tiny", name="law")
    (one,) = read_targets(["law"], ServingSection(), tmp_path / "more", lambda target: run)
    assert one.folder == run.path("artifacts", "adapter").resolve()
    empty = Run.create(Recipe.from_tree({"name": "empty"}), tmp_path / "more")
    with pytest.raises(RunError, match="no artefact"):
        read_targets(["empty"], ServingSection(), tmp_path / "more", lambda target: empty)


def test_settings_reach_a_worker_as_they_were_written():
    section = ServingSection(
        port=8443, prices={"中医": (0.5, 2.0)}, webhooks=(WebhookSection(url="https://h/x", key_file="/k"),)
    )
    told = Settings("/home", "http://x", ("x",), 2, section.model_dump(mode="json"))
    again = Settings.from_line(told.to_line().encode())
    assert ServingSection.model_validate(again.section) == section and "\n" not in told.to_line()
    assert os.sep in again.home


def test_a_machine_without_the_extra_is_told_so(artefacts):
    """Not by a traceback, and not by a worker that dies again and again."""
    code = (
        "import sys, importlib.abc\n"
        "class Gone(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('uvicorn', 'httptools', 'aiohttp', 'uvloop', 'prometheus_client', 'redis', 'psycopg'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "import importlib.util as u\n"
        "found = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name in ('uvicorn', 'httptools', 'aiohttp') else found(name, package)\n"
        "sys.meta_path.insert(0, Gone())\n"
        f"sys.argv = ['danlu', 'serve', {str(artefacts / 'law')!r}, 'serving.port=0', '--runs', {str(artefacts)!r}, '--lang', 'en']\n"
        "from danlu.cli.main import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "uvicorn" in done.stderr and "danlu[serve]" in done.stderr, done.stderr[-800:]


def test_a_recipe_that_says_nothing_has_the_gateways_own_caps():
    """One set of defaults, though two classes hold them."""
    assert caps_of(ServingSection(), ()) == Caps()
