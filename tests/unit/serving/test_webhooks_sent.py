"""Webhooks: signed, tried again, never waited for, and never sent to where nobody meant."""

import hashlib
import hmac
import json
import time

import pytest

from danlu.core.errors import RunError
from danlu.recipe.serving import WebhookSection
from danlu.run.audit import AuditLog
from danlu.serving import webhooks
from danlu.serving.webhooks import Event, FinalError, Webhooks, check_hook, is_public, send
from worker_kit import Receiver

SECRET = b"s3cret"


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "hook.key"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def quick():
    made = []

    def make(tmp_path, url, key_file, **more):
        told = []
        section = WebhookSection(url=url, key_file=key_file, private=True, **more)
        hooks = Webhooks([section], audit=tmp_path / "audit.jsonl", home=tmp_path, waits_s=(0.01, 0.01), poll_s=0.02, told=lambda event, **facts: told.append((event, facts)))  # fmt: skip
        made.append(hooks)
        return hooks, told

    yield make
    for hooks in made:
        hooks.close()


def test_an_event_is_signed_with_its_time(tmp_path, key_file, quick):
    receiver = Receiver()
    hooks, _ = quick(tmp_path, receiver.url, key_file)
    hooks.tell("replica_lost", replica="engine-0")
    path, headers, body, _ = receiver.wait(1)[0]
    assert path == "/hook?token=t"
    event = json.loads(body)
    assert (
        event["kind"] == "serving"
        and event["event"] == "serving.replica_lost"
        and event["facts"] == {"replica": "engine-0"}
    )
    expected = hmac.new(SECRET, headers["X-Danlu-Time"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(headers["X-Danlu-Signature"], f"v1={expected}")
    assert headers["X-Danlu-Delivery"] == event["id"] and abs(int(headers["X-Danlu-Time"]) - time.time()) < 5


def test_it_is_tried_again_and_stays_the_same_event(tmp_path, key_file, quick):
    receiver = Receiver([500, 429])
    hooks, told = quick(tmp_path, receiver.url, key_file)
    hooks.tell("flipped", model="law")
    got = receiver.wait(3)
    assert [status for *_, status in got] == [500, 429, 200]
    assert len({headers["X-Danlu-Delivery"] for _, headers, _, _ in got}) == 1
    assert told == []


@pytest.mark.parametrize("status", [301, 307, 400, 404, 410])
def test_redirects_and_refusals_are_an_end(tmp_path, key_file, quick, status):
    """A redirect to http://169.254.169.254/ is how a webhook became a way into a cloud account."""
    receiver = Receiver([status])
    hooks, told = quick(tmp_path, receiver.url, key_file)
    hooks.tell("flipped")
    receiver.wait(1)
    time.sleep(0.1)
    assert len(receiver.got) == 1 and told[0][0] == "webhook_lost" and "token" not in str(told)


def test_runs_and_registry_are_told_from_the_audit_log(tmp_path, key_file, quick):
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("train", {"run": "before"})
    receiver = Receiver()
    hooks, _ = quick(tmp_path, receiver.url, key_file)
    log.append("export", {"run": "law-1"})
    entry = log.append("registry.pointed", {"name": "law", "number": 3, "alias": "prod"}, reason="better")
    got = [json.loads(body) for _, _, body, _ in receiver.wait(2)]
    assert [(event["kind"], event["event"]) for event in got] == [
        ("run", "run.export"),
        ("registry", "registry.pointed"),
    ]
    assert got[1]["id"] == entry.hash and got[1]["facts"]["alias"] == "prod" and got[1]["facts"]["reason"] == "better"
    # what happened while nobody was there is told afterwards, and nothing twice
    hooks.close()
    log.append("registry.returned", {"name": "law", "number": 2})
    again = Receiver()
    section = WebhookSection(url=receiver.url, key_file=key_file, private=True)
    receiver.got.clear()
    second = Webhooks([section], audit=tmp_path / "audit.jsonl", home=tmp_path, told=print, poll_s=0.02)
    assert [json.loads(body)["event"] for _, _, body, _ in receiver.wait(1)] == ["registry.returned"]
    second.close()
    again.server.shutdown()


def test_only_what_was_asked_for_is_told(tmp_path, key_file, quick):
    receiver = Receiver()
    hooks, _ = quick(tmp_path, receiver.url, key_file, events=("registry",))
    hooks.tell("flipped")
    AuditLog(tmp_path / "audit.jsonl").append("registry.added", {"name": "law"})
    assert json.loads(receiver.wait(1)[0][2])["kind"] == "registry"


def test_a_receiver_that_hangs_holds_up_nobody(tmp_path, key_file, quick):
    receiver = Receiver(delay_s=0.5)
    hooks, told = quick(tmp_path, receiver.url, key_file)
    began = time.monotonic()
    for n in range(webhooks.MOST_WAITING + 50):
        hooks.tell("event", n=n)
    assert time.monotonic() - began < 0.5
    assert {event for event, _ in told} == {"webhook_full"}


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1%eth0", "fc00::1",
     "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "100.64.0.1", "224.0.0.1", "ff02::1"],
)  # fmt: skip
def test_incident_12_private_addresses_in_every_dress(address):
    assert not is_public(address)


def test_public_ones_are_public():
    assert is_public("93.184.215.14") and is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


def test_incident_12_a_private_address_is_called_only_when_said(key_file):
    """LMDeploy CVE-2026-33626: a URL that resolves inwards."""
    receiver = Receiver()
    section = WebhookSection(url=receiver.url, key_file=key_file)
    with pytest.raises(FinalError, match="private"):
        send(section, SECRET, Event("1", "", "serving", "serving.x", {}), b"{}")
    assert receiver.got == []


def test_a_hook_that_cannot_work_is_said_at_once(tmp_path, key_file):
    check_hook(WebhookSection(url="https://hooks.example/x", key_file=key_file))
    for url, word in (
        ("http://hooks.example/x", "plain"),
        ("https://user:pw@hooks.example/", "address"),
        ("https://:99999/x", "address"),
    ):
        with pytest.raises(RunError, match=word):
            check_hook(WebhookSection(url=url, key_file=key_file))
    with pytest.raises(RunError, match="not there"):
        check_hook(WebhookSection(url="https://hooks.example/x", key_file=str(tmp_path / "none")))
