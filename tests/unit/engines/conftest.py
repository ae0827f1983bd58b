"""A tiny base with a tokenizer and a template, which most engines here load; and a server for the remote one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from remote_kit import Server

from danlu.data.encode import Encoder
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from tiny_chat import write_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    tokenizer = Tokenizer.load(folder)
    return Encoder(tokenizer, Template.load(folder, tokenizer), context=512)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()
