"""`danlu serve` over TLS in front of somebody else's engine: a new certificate and new settings without a stop, wrong
ones without harm, and events to a webhook."""

import asyncio
import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading

from danlu.data.privacy.fakes import is_chinese
from waiting_kit import PATIENCE_S, until_true
from worker_kit import Engine, Receiver, make_certificate


def shown(port: int) -> str:
    """The certificate that is shown, as its digest."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))).hexdigest()


def stored(path) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(path.read_text())).hexdigest()


def test_certificates_and_settings_change_without_a_stop(tmp_path):
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    engine = asyncio.run_coroutine_threadsafe(asyncio.start_server(Engine().serve, "127.0.0.1", 0), loop).result(
        PATIENCE_S
    )
    engine_port = engine.sockets[0].getsockname()[1]
    receiver = Receiver()
    cert, _ = make_certificate(tmp_path)
    (tmp_path / "hook.key").write_text("s3cret")
    (tmp_path / "hook.key").chmod(0o600)
    config = tmp_path / "serving.yaml"
    chapter = {
        "port": 0, "metrics_port": 0, "allow_unverified": True, "tls": {"cert": "cert.pem", "key": "key.pem"},
        "models": {"big": {"target": f"http://127.0.0.1:{engine_port}/v1", "model": "qwen"}},
        "webhooks": [{"url": receiver.url, "key_file": "hook.key", "private": True}],
    }  # fmt: skip
    config.write_text(json.dumps({"serving": chapter}))
    command = [
        sys.executable,
        "-m",
        "danlu",
        "serve",
        "--config",
        str(config),
        "--runs",
        str(tmp_path / "runs"),
        "--first-key",
        "--json",
    ]
    environment = os.environ | {"HOME": str(tmp_path)}
    danlu, runs = [sys.executable, "-m", "danlu"], ["--runs", str(tmp_path / "runs")]
    with (tmp_path / "err").open("wb") as errors:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
    try:
        told = json.loads(server.stdout.readline() or (tmp_path / "err").read_text())
        port = int(told["url"].rpartition(":")[2])
        assert told["url"].startswith("https://127.0.0.1:") and told["models"][0]["driver"] == "upstream"

        def ask(**more):
            context = ssl.create_default_context(cafile=cert)
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE_S, context=context)
            body = json.dumps({"model": "big", "messages": [{"role": "user", "content": "?"}]} | more)
            connection.request(
                "POST",
                "/v1/chat/completions",
                body,
                {"Authorization": f"Bearer {told['first_key']}", "Content-Type": "application/json"},
            )
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())

        assert ask()[0] == 200 and ask(max_tokens=2000)[0] == 200
        first = shown(port)
        assert first == stored(cert)

        # a renewed certificate and another cap: one SIGHUP
        make_certificate(tmp_path)
        config.write_text(json.dumps({"serving": chapter | {"caps": {"max_tokens": 1000}}}))
        server.send_signal(signal.SIGHUP)
        until_true(lambda: shown(port) == stored(cert) != first)
        log = tmp_path / "runs" / "serving" / "logs" / "requests-w0.jsonl"
        until_true(lambda: '"ended"' in log.read_text())  # until then the old worker may still take some
        assert ask(max_tokens=2000)[0] == 400 and ask()[0] == 200

        # a second server on this home says so first, and looks at nothing else
        second = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE_S)
        told_twice = json.loads(second.stdout)
        assert second.returncode and told_twice["error"] == "rollout.is_running", second.stdout + second.stderr

        # a wrong one changes nothing, and says so
        config.write_text(json.dumps({"serving": chapter | {"caps": {"max_tokens": -1}}}))
        server.send_signal(signal.SIGHUP)
        log = tmp_path / "runs" / "serving" / "logs" / "server.jsonl"
        until_true(lambda: '"refused"' in log.read_text())
        assert "max_tokens" in log.read_text() and ask()[0] == 200

        # who asks for a reload reads in his own language what is wrong, down to each complaint
        for language, words in (("zh", "一切保持不变"), ("en", "everything stays as it is")):
            argv = [*danlu, "serving", "reload", "--lang", language, *runs]
            said = subprocess.run(argv, capture_output=True, text=True, env=environment | {"COLUMNS": "200"})
            assert said.returncode and words in said.stderr and "max_tokens" in said.stderr, said.stderr
            complaint = next(line for line in said.stderr.splitlines() if "max_tokens" in line)
            assert is_chinese(complaint) == (language == "zh"), complaint

        # another model, another address, two workers; and what cannot change while it runs
        with socket.create_server(("127.0.0.1", 0)) as free:
            new_port = free.getsockname()[1]
        models = chapter["models"] | {"small": {"target": f"http://127.0.0.1:{engine_port}/v1", "model": "qwen-s"}}
        changed = chapter | {"models": models, "port": new_port, "workers": 2, "engine": "native", "metrics_port": 1}
        config.write_text(json.dumps({"serving": changed}))
        said = subprocess.run(
            [*danlu, "serving", "reload", "--json", *runs], capture_output=True, text=True, env=environment
        )
        renewed = json.loads(said.stdout)
        assert len(renewed["workers"]) == 2 and renewed["added"] == ["small"], said.stderr
        assert {(kept["knob"], kept["was"], kept["now"]) for kept in renewed["kept"]} == {
            ("serving.engine", "auto", "native"), ("serving.metrics_port", "0", "1"),
        }  # fmt: skip
        assert "serving.engine stays auto" in said.stderr
        port = new_port
        assert ask()[0] == 200 and ask(model="small")[0] == 200
        for words in (("add", "../x", "law:1"), ("add", "law", "../x")):
            said = subprocess.run([*danlu, "serving", *words, *runs], capture_output=True, text=True, env=environment)
            assert said.returncode and "Traceback" not in said.stderr and "../x" in said.stderr, said.stderr

        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_S) == 0, (tmp_path / "err").read_text()[-2000:]
    finally:
        server.kill()
        loop.call_soon_threadsafe(engine.close)
    events = [json.loads(body)["event"] for _, _, body, _ in receiver.got]
    assert {"serving.opened", "serving.reloaded", "serving.refused"} <= set(events)
    told_once = [event for event in events if event != "serving.reloaded"]
    assert len(told_once) == len(set(told_once)) and events.count("serving.reloaded") == 2, events
    assert "Traceback" not in (tmp_path / "err").read_text()
