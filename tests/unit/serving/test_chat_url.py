"""`danlu chat URL`: the key goes to the server it was stored for. Over a real worker, plain and with TLS."""

import http.client
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from danlu.core.errors import EngineError
from danlu.serving.known_servers import KnownServers, proof_of, verifier_of
from worker_kit import Engine, Stage, make_certificate


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("plain"), Engine())
    stage.show()
    stage.start()
    stage.wait()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = make_certificate(folder)
    stage = Stage(folder, Engine())
    stage.show()
    stage.start(tls={"cert": str(cert), "key": str(key)})
    stage.wait()
    yield stage
    stage.close()


class Impostor:
    """Something else on the port. It keeps whatever it is sent, and may play a danlu server as well as it can."""

    def __init__(self, port=0, *, proof=""):
        self.heard = []
        outer = self

        class Door(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.heard.append((self.path, str(self.headers)))
                body = json.dumps({"server": "danlu", "proof": proof, "data": []}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                self.do_GET()

            def log_message(self, *args):
                pass

        self.server = HTTPServer(("127.0.0.1", port), Door)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def test_a_server_proves_who_it_is_each_time(plain, tmp_path):
    servers, url = KnownServers(tmp_path / "servers"), f"http://127.0.0.1:{plain.port}"
    with pytest.raises(EngineError, match="no key for"):
        servers.meet(url)
    first = servers.meet(url, key=plain.key)
    assert first.is_new and first.key_file.read_text().strip() == plain.key
    for path in (tmp_path / "servers").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    again = servers.meet(url + "/v1")
    assert not again.is_new
    servers.forget(url)
    with pytest.raises(EngineError, match="no key for"):
        servers.meet(url)


def test_incident_17_whatever_else_answers_gets_no_key(plain, tmp_path):
    """Unsloth Studio #6479: the key went to whatever listened on the port."""
    servers = KnownServers(tmp_path / "servers")
    impostor = Impostor(proof="00" * 32)
    known = servers.meet(f"http://127.0.0.1:{plain.port}", key=plain.key)
    known.key_file.parent.rename(servers.place_of(impostor.url))  # as if it had been there on that port before
    with pytest.raises(EngineError) as caught:
        servers.meet(impostor.url)
    assert caught.value.key == "serve.other_server"
    assert impostor.heard and not any(plain.key in heard or "Authorization" in heard for _, heard in impostor.heard)
    impostor.close()


def test_what_is_no_danlu_server_is_not_given_a_first_key_either(plain, tmp_path):
    heard = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(str(self.headers))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def do_POST(self):
            self.do_GET()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(EngineError, match="no danlu server"):
        KnownServers(tmp_path).meet(f"http://127.0.0.1:{server.server_address[1]}", key=plain.key)
    assert heard and not any(plain.key in headers for headers in heard)
    server.shutdown()


def test_another_machine_without_encryption_is_refused_first(tmp_path):
    with pytest.raises(EngineError, match="plain text"):
        KnownServers(tmp_path).meet("http://192.0.2.1:8000", key="dl-x")


def test_answers_to_a_challenge_say_nothing_of_the_pepper(plain):
    key_id = plain.key.split("-")[1]
    status, _, body = plain.get(f"/identity?key={key_id}&nonce={'ab' * 16}")
    from danlu.serving.keys import PEPPER, Pepper

    verifier = verifier_of(Pepper.open(plain.home / PEPPER), key_id)
    assert status == 200 and json.loads(body) == {"server": "danlu", "proof": proof_of(verifier, "ab" * 16)}
    connection = http.client.HTTPConnection("127.0.0.1", plain.port)
    connection.request("POST", "/v1/identity", "{}", {"Content-Type": "application/json"})
    assert connection.getresponse().status == 401  # what proofs are made of is for keys alone


def test_a_certificate_is_believed_as_it_was_first_seen(tls, tmp_path):
    servers, url = KnownServers(tmp_path / "servers"), f"https://localhost:{tls.port}"
    first = servers.meet(url, key=tls.key)
    assert first.is_new and first.ca_file is not None and len(first.fingerprint) == 64
    assert not servers.meet(url).is_new
    other, _ = make_certificate(tmp_path)
    first.ca_file.write_text(other.read_text())  # as if another one had been seen first
    with pytest.raises(EngineError) as caught:
        servers.meet(url)
    assert caught.value.key == "serve.other_server"


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_talking_on_the_command_line(kind, request, tmp_path):
    stage = request.getfixturevalue(kind)
    url = f"http://127.0.0.1:{stage.port}" if kind == "plain" else f"https://localhost:{stage.port}"
    (tmp_path / "key.txt").write_text(stage.key)
    (tmp_path / "key.txt").chmod(0o600)

    def chat(*words, said="Hello\n"):
        command = [sys.executable, "-m", "danlu", "--lang", "en", "chat", url, "--json", *words]
        environment = os.environ | {"HOME": str(tmp_path)}
        return subprocess.run(
            command, input=said, capture_output=True, text=True, env=environment, timeout=60, check=False
        )

    done = chat("--key-file", str(tmp_path / "key.txt"))
    assert json.loads(done.stdout.splitlines()[-1])["answer"].strip() == ("ja " * 8).strip(), done.stderr
    assert "is new" in done.stderr
    done = chat()
    assert json.loads(done.stdout.splitlines()[-1])["answer"], done.stderr
    done = chat("--model", "lwa")
    assert done.returncode == 2 and "law" in done.stderr
    chat("--forget")
    done = chat()
    assert done.returncode == 2 and "no key for" in done.stderr and stage.key not in done.stderr + done.stdout
