"""Downloads against a real server on loopback that speaks both hubs' languages: broken off, damaged, gated, full disk, offline."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from danlu.core.errors import HubError, ModelError
from danlu.model import download as transport
from danlu.model.hub import CACHE, find_base
from http_kit import Quiet, listening

TENSORS = b"\x08\0\0\0\0\0\0\0" + b"{}      " + b"weights" * 3000
FILES: dict[str, bytes] = {
    "config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}", "tokenizer_config.json": b"{}",
    "model.safetensors": TENSORS, "LICENSE": b"Apache-2.0", "pytorch_model.bin": b"\x80\x02never", "modeling_x.py": b"evil",
    "README.md": b"#", "onnx/model.safetensors": b"no", "consolidated.safetensors": b"no",
}  # fmt: skip


class FakeHub:
    """What the server answers, and what it was asked."""

    def __init__(self) -> None:
        self.files = dict(FILES)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.cut_after = 0  # break the next transfer of weights off after so many bytes
        self.damaged = False
        self.gate = 0
        self.error_code = ""
        self.busy = 0
        self.redirect = ""
        self.ignores_range = False
        self.url = ""

    def reset_log(self) -> None:
        self.asked.clear()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    state = FakeHub()

    class Handler(Quiet):
        def do_GET(self) -> None:  # noqa: N802 - the name that http.server asks for
            state.asked.append((self.path, dict(self.headers)))
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            if path.startswith("/api/models/org/model/revision/main"):
                assert query["blobs"] == ["true"]
                self.answer(200, json.dumps(huggingface_listing(state.files)).encode())
            elif path == "/api/v1/models/org/model/repo/files":
                assert query["Revision"] == ["master"]
                self.answer(200, json.dumps(modelscope_listing(state.files)).encode())
            elif "/resolve/" in path:
                self.send(path.split("/resolve/")[1].split("/", 1)[1])
            elif path.startswith("/cdn/"):
                self.send(path.removeprefix("/cdn/"), is_cdn=True)
            else:
                self.answer(401, X_Error_Code="RepoNotFound")

        def send(self, name: str, is_cdn: bool = False) -> None:
            if state.gate:
                return self.answer(state.gate, X_Error_Code=state.error_code)
            if state.busy:
                state.busy -= 1
                return self.answer(503)
            if name == "model.safetensors" and state.redirect and not is_cdn:
                return self.answer(302, Location=state.redirect)
            body = state.files[name]
            if name == "model.safetensors" and state.damaged:
                body = body[:-1] + b"?"
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            if state.ignores_range:
                start = 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            if name == "model.safetensors" and state.cut_after:
                self.wfile.write(body[start : start + state.cut_after])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
            else:
                self.wfile.write(body[start:])

    with listening(Handler) as state.url:
        yield state


def huggingface_listing(files: dict[str, bytes]) -> dict[str, Any]:
    def item(name: str, body: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()
        large = {"lfs": {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}} if len(body) > 999 else {}
        return {"rfilename": name, "size": len(body), "blobId": blob, **large}

    return {"sha": "abc", "siblings": [item(name, body) for name, body in files.items()]}


def modelscope_listing(files: dict[str, bytes]) -> dict[str, Any]:
    rows = [
        {"Path": name, "Size": len(body), "Sha256": hashlib.sha256(body).hexdigest(), "Type": "blob"}
        for name, body in files.items()
    ]
    return {"Code": 200, "Success": True, "Data": {"Files": [*rows, {"Path": "onnx", "Size": 0, "Type": "tree"}]}}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PAUSES_S", (0.0,))


def get(fake: FakeHub, tmp_path: Path, **options: Any) -> Path:
    return find_base("org/model", **{"mirror": fake.url, "cache": tmp_path, **options})


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_only_what_a_model_needs_is_fetched(hub: FakeHub, tmp_path: Path, name: Any) -> None:
    folder = get(hub, tmp_path, hub=name)
    got = {p.name for p in folder.iterdir()}
    assert got == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
        "LICENSE",
        ".danlu.json",
    }
    assert (folder / "model.safetensors").read_bytes() == TENSORS
    assert folder.relative_to(tmp_path).parts == (
        "models",
        name,
        "org--model",
        "main" if name == "huggingface" else "master",
    )


def test_second_time_needs_no_network(hub: FakeHub, tmp_path: Path) -> None:
    folder = get(hub, tmp_path)
    hub.reset_log()
    assert get(hub, tmp_path, mirror="http://127.0.0.1:1") == folder
    assert hub.asked == []


def test_a_broken_transfer_is_resumed_not_repeated(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_after = 5000
    with pytest.raises(HubError) as caught:
        get(hub, tmp_path)
    assert caught.value.key == "model.hub_failed"
    folder = tmp_path / "models/huggingface/org--model/main"
    assert not (folder / "model.safetensors").exists() and not (folder / ".danlu.json").exists()
    begun = (folder / ".model.safetensors.part").stat().st_size
    assert begun >= 5000  # the first try and the one after it
    hub.cut_after = 0
    hub.reset_log()
    assert (get(hub, tmp_path) / "model.safetensors").read_bytes() == TENSORS
    ranges = [headers.get("Range") for path, headers in hub.asked if path.endswith("model.safetensors")]
    assert ranges == [f"bytes={begun}-"]
    assert not any("tokenizer.json" in path for path, _ in hub.asked), "whole files are not fetched twice"


def test_a_server_without_ranges_starts_over(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_after, hub.ignores_range = 5000, True
    with pytest.raises(HubError):
        get(hub, tmp_path)
    hub.cut_after = 0
    assert (get(hub, tmp_path) / "model.safetensors").read_bytes() == TENSORS


def test_damaged_content_is_refused_and_fetched_anew(hub: FakeHub, tmp_path: Path) -> None:
    hub.damaged = True
    with pytest.raises(HubError) as caught:
        get(hub, tmp_path)
    assert caught.value.key == "model.checksum" and "model.safetensors" in str(caught.value)
    hub.damaged = False
    assert (get(hub, tmp_path) / "model.safetensors").read_bytes() == TENSORS


def test_damaged_small_file_is_refused_by_its_git_name(hub: FakeHub, tmp_path: Path) -> None:
    listing = transport.RemoteFile(
        "config.json", f"{hub.url}/org/model/resolve/main/config.json", 23, blob_sha1="0" * 40
    )
    with pytest.raises(HubError) as caught:
        transport.fetch(listing, tmp_path, progress=transport.Progress)  # type: ignore[arg-type]
    assert caught.value.key == "model.checksum"


def test_a_busy_hub_is_asked_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.busy = 1
    assert (get(hub, tmp_path) / "config.json").exists()


@pytest.mark.parametrize(("status", "code"), [(401, "GatedRepo"), (403, "")])
def test_gated_model_gets_a_clear_word(hub: FakeHub, tmp_path: Path, status: int, code: str) -> None:
    hub.gate, hub.error_code = status, code
    with pytest.raises(HubError) as caught:
        get(hub, tmp_path)
    assert caught.value.key == "model.gated" and "huggingface.token" in str(caught.value)


def test_a_missing_model_is_not_called_gated(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(HubError) as caught:
        find_base("org/typo", mirror=hub.url, cache=tmp_path)
    assert caught.value.key == "model.not_found" and "org/typo" in str(caught.value)


def test_token_goes_to_the_hub_and_not_to_its_cdn(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "huggingface.token").write_text("secret\n")
    hub.redirect = hub.url.replace("127.0.0.1", "localhost") + "/cdn/model.safetensors"
    assert (get(hub, tmp_path) / "model.safetensors").read_bytes() == TENSORS
    told = {path: headers.get("Authorization") for path, headers in hub.asked}
    assert told["/org/model/resolve/main/model.safetensors"] == "Bearer secret"
    assert told["/cdn/model.safetensors"] is None


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_away_from_http_are_refused(hub: FakeHub, tmp_path: Path, target: str) -> None:
    hub.redirect = target
    with pytest.raises(HubError) as caught:
        get(hub, tmp_path)
    assert caught.value.key == "model.hub_unsafe_redirect"


def test_a_mirror_that_is_not_http_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HubError) as caught:
        find_base("org/model", mirror="file:///etc", cache=tmp_path)
    assert caught.value.key == "model.hub_unsafe_redirect"


def test_disk_space_is_checked_before_the_first_byte(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(HubError) as caught:
        get(hub, tmp_path, free=lambda _: 1000)
    assert caught.value.key == "model.disk_full"
    assert not any("/resolve/" in path for path, _ in hub.asked)


def test_pickle_only_repository_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {name: FILES[name] for name in ("config.json", "pytorch_model.bin")}
    with pytest.raises(ModelError) as caught:
        get(hub, tmp_path)
    assert caught.value.key == "model.pickle" and "pytorch_model.bin" in str(caught.value)


def test_sharded_repository_follows_its_index(hub: FakeHub, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    hub.files |= {
        "model.safetensors.index.json": json.dumps(index).encode(), "model-1.safetensors": b"1", "model-2.safetensors": b"2",
        "other.safetensors": b"3",
    }  # fmt: skip
    got = {p.name for p in get(hub, tmp_path).iterdir() if "safetensors" in p.name}
    assert got == {"model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"}


def test_names_outside_the_folder_are_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["../config.json"] = b"x"
    with pytest.raises(HubError) as caught:
        get(hub, tmp_path)
    assert caught.value.key == "model.hub_unsafe_name"


def test_config_alone_is_enough_for_random_weights_and_weights_follow_later(hub: FakeHub, tmp_path: Path) -> None:
    folder = get(hub, tmp_path, needs_weights=False)
    assert not (folder / "model.safetensors").exists()
    assert (get(hub, tmp_path) / "model.safetensors").exists()


def test_a_listing_that_is_not_json_names_the_mirror(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(HubError) as caught:
        find_base("org/model", mirror=f"{hub.url}/org/model/resolve/x/LICENSE?", cache=tmp_path)
    assert caught.value.key in ("model.hub_bad_answer", "model.not_found")


@pytest.mark.parametrize("given", ["no/such/folder", "nothing", "../up", "org/..", "/absent"])
def test_neither_folder_nor_id(tmp_path: Path, given: str) -> None:
    with pytest.raises(HubError) as caught:
        find_base(given, cache=tmp_path)
    assert caught.value.key == "model.base_missing" and given in str(caught.value)


def test_offline_says_so_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HubError) as caught:
        find_base("org/model", mirror="http://127.0.0.1:9", cache=tmp_path)
    assert caught.value.key == "model.hub_failed"


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert find_base(tmp_path) == tmp_path
    assert find_base(str(tmp_path)) == tmp_path


def test_hub_imports_without_torch() -> None:
    code = "import sys, danlu.model.hub, danlu.model.shards; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cache_lies_in_the_home_folder() -> None:
    assert str(CACHE) == "~/.cache/danlu"
