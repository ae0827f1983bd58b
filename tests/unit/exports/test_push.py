"""Sending artefacts, with the hubs' own clients, to a server on loopback that speaks their languages."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.core.errors import ExportError, HubError
from danlu.core.files import read_json, write_json
from danlu.data.contract import make_contract
from danlu.data.encode import Encoder
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.exports.push import push
from danlu.exports.speech import write_speech
from danlu.recipe.exports import PushSection
from danlu.run.artifact import Manifest
from hub_server import Hub, hub_server
from tiny_chat import write_tokenizer

pytest.importorskip("huggingface_hub", reason="sending needs the hub's own client")
both = pytest.mark.parametrize("kind", ["huggingface", "modelscope"])


@pytest.fixture(autouse=True)
def _without_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large files by HTTP, which is what a hub without Xet storage is sent; Xet's own servers are not played here."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # tests are, but for the loopback


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as running:
        yield running


def artifact(folder: Path, *, verdict: str = "pass") -> Path:
    """A folder with the files that are looked at on the way: speech, weights, a sealed manifest."""
    write_tokenizer(folder / "base")
    write_json(folder / "base" / "generation_config.json", {"eos_token_id": [2, 0]})
    tokenizer = Tokenizer.load(folder / "base")
    encoder = Encoder(tokenizer, Template.load(folder / "base", tokenizer))
    contract = make_contract(encoder.template, tokenizer)
    out = folder / "out"
    out.mkdir()
    write_speech(contract, folder / "base", out)
    (out / "model.safetensors").write_bytes(b"weights" * 1000)
    checks = [{"name": "weights", "verdict": "pass" if verdict == "pass" else "not run"}]
    parity = {"verdict": verdict, "checks": checks, "noise": {}, "living_dtype": "float32", "canary_log_probs": []}
    Manifest("merged", "tiny", {"name": "base"}, {}, contract.to_json(), (), parity, "2026-01-01").write(out)
    return out


def section(hub: Hub, kind: str, **more: object) -> PushSection:
    if kind == "modelscope":
        pytest.importorskip("modelscope_hub", reason="sending needs the hub's own client")
    return PushSection.model_validate({"repo": "me/tiny", "hub": kind, "endpoint": hub.url} | more)


@both
def test_what_is_sent_lies_there_private_and_byte_for_byte(kind: str, hub: Hub, tmp_path: Path, capsys) -> None:
    folder = artifact(tmp_path)
    pushed = push(folder, section(hub, kind), token="secret")
    assert hub.repos == {"me/tiny": True} and pushed.is_private
    assert hub.files["me/tiny"] == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert pushed.digest == Manifest.read(folder).digest
    assert not capsys.readouterr().out, "--json must stay JSON"


@both
def test_a_public_repository_is_refused_before_a_byte_is_sent(kind: str, hub: Hub, tmp_path: Path) -> None:
    hub.repos["me/tiny"], hub.files["me/tiny"] = False, {}
    with pytest.raises(HubError, match="public"):
        push(artifact(tmp_path), section(hub, kind), token="secret")
    assert not hub.files["me/tiny"] and not hub.blobs


@both
def test_public_is_a_decision_of_its_own(kind: str, hub: Hub, tmp_path: Path) -> None:
    push(artifact(tmp_path), section(hub, kind, private=False), token="secret")
    assert hub.repos == {"me/tiny": False}


def test_a_client_that_makes_the_repository_anew_and_public_is_found_out(hub: Hub, tmp_path: Path) -> None:
    hub.remakes = True
    with pytest.raises(HubError, match="public"):
        push(artifact(tmp_path), section(hub, "modelscope"), token="secret")


@both
def test_files_of_an_earlier_artefact_do_not_stay(kind: str, hub: Hub, tmp_path: Path) -> None:
    hub.repos["me/tiny"], hub.files["me/tiny"] = True, {"model-00001-of-00002.safetensors": b"old" * 9}
    folder = artifact(tmp_path)
    push(folder, section(hub, kind), token="secret")
    assert set(hub.files["me/tiny"]) == {path.name for path in folder.iterdir()}


@both
def test_what_did_not_pass_is_not_sent(kind: str, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="incomplete"):
        push(artifact(tmp_path, verdict="incomplete"), section(hub, kind), token="secret")
    assert not hub.asked


@both
def test_damage_on_the_way_is_found(kind: str, hub: Hub, tmp_path: Path) -> None:
    hub.damages = True
    with pytest.raises(HubError, match=r"model\.safetensors"):
        push(artifact(tmp_path), section(hub, kind), token="secret")


@both
def test_a_refusal_says_what_the_hub_said(kind: str, hub: Hub, tmp_path: Path) -> None:
    hub.status = 403
    with pytest.raises(HubError, match="may") as caught:
        push(artifact(tmp_path), section(hub, kind), token="secret")
    assert "secret" not in str(caught.value) + str(caught.value.to_json()), "a hub may tell back what it was sent"


@pytest.mark.parametrize("kind", ["huggingface", pytest.param("modelscope", marks=pytest.mark.slow)])  # it tries again
def test_a_hub_that_cannot_be_reached_is_no_traceback(kind: str, tmp_path: Path) -> None:
    """huggingface_hub's transport raises what is no OSError."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(HubError) as caught:
            push(artifact(tmp_path), section(Hub(url=address), kind), token="secret")
    assert caught.value.key == "push.refused" and "secret" not in str(caught.value)


@pytest.mark.parametrize("content", ["hf_one\nhf_two\n", "hf_…abc", "Bearer hf_abc"])
def test_what_is_no_token_is_not_quoted(content: str, tmp_path: Path) -> None:
    (tmp_path / "huggingface.token").write_text(content, encoding="utf-8")
    with pytest.raises(HubError) as caught:
        push(artifact(tmp_path), PushSection(repo="me/tiny"), cache=tmp_path)
    assert caught.value.key == "push.bad_token" and "abc" not in str(caught.value) and "hf_" not in str(caught.value)


def test_an_address_with_a_password_would_stand_in_events(tmp_path: Path) -> None:
    endpoint = "https://me:hunter2@hub.example"
    with pytest.raises(HubError) as caught:
        push(artifact(tmp_path), PushSection(repo="me/tiny", endpoint=endpoint), token="secret")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "repo", ["../x/y", "me/..", "me/../you", "/etc/passwd", "me", "me/x/y", "me/x y", "me/x\n", "-/x"]
)
def test_a_repository_is_one_name_below_another(repo: str) -> None:
    with pytest.raises(ValueError, match="repo"):
        PushSection(repo=repo)


def test_a_changed_artefact_is_not_sent(hub: Hub, tmp_path: Path) -> None:
    folder = artifact(tmp_path)
    (folder / "model.safetensors").write_bytes(b"other" * 1000)
    with pytest.raises(ExportError):
        push(folder, section(hub, "huggingface"), token="secret")
    assert not hub.asked and read_json(folder / "artifact.json")


def test_a_token_never_travels_in_the_clear(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="https"):
        push(artifact(tmp_path), PushSection(repo="me/tiny", endpoint="http://hub.example"), token="secret")


def test_without_a_token_it_says_where_one_belongs(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"huggingface\.token"):
        push(artifact(tmp_path), PushSection(repo="me/tiny"), cache=tmp_path)
