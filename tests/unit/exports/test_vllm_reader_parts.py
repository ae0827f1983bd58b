"""What of the vLLM reader needs no vLLM: where it is looked for, in what it is to compute, and a refusal that is told."""

from __future__ import annotations

import json
import socket
import stat
import threading
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from danlu.core.errors import ExportError
from danlu.exports.readers.reader import Place
from danlu.exports.readers.vllm import VLLMReader, _Connection, dtype_of
from danlu.exports.vllm_program import program, programs
from danlu.recipe.exports import ExportSection


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_it_is_looked_for_beside_the_python_that_was_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert program(None) is None and programs(None) == ()
    assert program(str(tmp_path / "python")) is None
    assert programs(str(tmp_path / "python")) == ("vllm",), "named, so it is asked and will say that it is not there"
    script(tmp_path / "vllm", "exit 1")
    assert program(str(tmp_path / "python")) == str(tmp_path / "vllm")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program(None) == str(tmp_path / "vllm")


def test_codes_are_computed_in_half_precision_and_the_rest_in_fp32(tmp_path: Path) -> None:
    def told(config: dict[str, object]) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return dtype_of(Place(tmp_path))

    assert told({"torch_dtype": "bfloat16"}) == "float32"
    assert told({"torch_dtype": "bfloat16", "quantization_config": {"quant_method": "awq"}}) == "bfloat16"
    assert told({"dtype": "float16", "quantization_config": {"quant_method": "gptq"}}) == "float16"
    assert told({"torch_dtype": "bfloat16", "quantization_config": {"quant_method": "compressed-tensors"}}) == "float32"
    assert dtype_of(Place(tmp_path, dtype=torch.bfloat16)) == "bfloat16"


def test_what_it_said_before_it_ended_is_told(tmp_path: Path) -> None:
    (tmp_path / "vllm.yaml").write_text("model: .\nserved-model-name:\n- tiny\n")
    (tmp_path / "config.json").write_text('{"vocab_size": 8}')
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    script(bin_folder / "vllm", 'echo starting; echo "ValueError: no such family" >&2; exit 1')
    with pytest.raises(ExportError) as caught:
        VLLMReader().open(Place(tmp_path, python=str(bin_folder / "python")))
    assert caught.value.key == "export.reader_failed" and "no such family" in caught.value.text
    with pytest.raises(ExportError) as caught:
        VLLMReader().open(Place(tmp_path, python=str(tmp_path / "python")))
    assert "no vllm" in caught.value.text


def test_http_goes_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(path)
    server.listen()

    def answer() -> None:
        there, _ = server.accept()
        there.recv(65536)
        there.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        there.close()

    threading.Thread(target=answer, daemon=True).start()
    connection = _Connection(path)
    connection.request("GET", "/health")
    reply = connection.getresponse()
    assert (reply.status, reply.read()) == (200, b"{}")
    connection.close()
    server.close()


def test_only_kinds_for_vllm_are_read_by_it() -> None:
    read = ExportSection.model_validate({"kind": "awq", "vllm": "/opt/vllm/bin/python"})
    assert read.settings() == {"python": "/opt/vllm/bin/python"} and read.folder == "awq"
    with pytest.raises(ValidationError, match="vllm-lora"):
        ExportSection.model_validate({"kind": "merged", "vllm": "/opt/vllm/bin/python"})
