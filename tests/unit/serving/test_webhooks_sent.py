"""Webhooks: signed, tried again, never waited for, and never sent to where nobody meant."""

import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import RunError
from danlu.recipe.serving import WebhookSection
from danlu.run.audit import AuditLog
from danlu.serving import webhooks
from danlu.serving.outbox import Outbox
from danlu.serving.webhooks import Event, FinalError, Webhooks, check_hook, is_public, send
from waiting_kit import a_moment, until_true
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

    def make(tmp_path, url, key_file, most_bytes=2**20, **more):
        told = []
        section = WebhookSection(url=url, key_file=key_file, private=True, **more)
        hooks = Webhooks(
            [section], audit=tmp_path / "audit.jsonl", home=tmp_path, waits_s=(0.01, 0.01), poll_s=0.02,
            most_bytes=most_bytes, told=lambda event, **facts: told.append((event, facts)),
        )  # fmt: skip
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
    hooks.tell("switched", model="law")
    got = receiver.wait(3)
    assert [status for *_, status in got] == [500, 429, 200]
    assert len({headers["X-Danlu-Delivery"] for _, headers, _, _ in got}) == 1
    assert told == []


@pytest.mark.parametrize("status", [301, 307, 400, 404, 410])
def test_redirects_and_refusals_are_an_end(tmp_path, key_file, quick, status):
    """A redirect to http://169.254.169.254/ is how a webhook became a way into a cloud account."""
    receiver = Receiver([status])
    hooks, told = quick(tmp_path, receiver.url, key_file)
    hooks.tell("switched")
    receiver.wait(1)
    until_true(lambda: told)
    a_moment()
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
    hooks.tell("switched")
    AuditLog(tmp_path / "audit.jsonl").append("registry.added", {"name": "law"})
    assert json.loads(receiver.wait(1)[0][2])["kind"] == "registry"


def test_a_receiver_that_hangs_holds_up_nobody(tmp_path, key_file, quick):
    receiver = Receiver(delay_s=0.5)
    hooks, told = quick(tmp_path, receiver.url, key_file)
    began = time.monotonic()
    for n in range(webhooks.MOST_WAITING + 50):
        hooks.tell("event", n=n)
    assert time.monotonic() - began < 30, "half a second each would be more than a minute"
    assert told == []  # they wait on disk


def test_a_receiver_that_is_away_is_waited_for(tmp_path, key_file, quick):
    receiver = Receiver([503, 502, 429, 504, 503, 503])  # more than are tried where somebody is there
    hooks, told = quick(tmp_path, receiver.url, key_file)
    hooks.tell("first")
    hooks.tell("second")
    got = [json.loads(body)["event"] for _, _, body, status in receiver.wait(8) if status == 200]
    assert got == ["serving.first", "serving.second"] and told == []


def test_an_event_that_a_receiver_cannot_take_does_not_hold_up_the_next(tmp_path, key_file, quick):
    receiver = Receiver([500, 500, 500])
    hooks, told = quick(tmp_path, receiver.url, key_file)
    hooks.tell("poison")
    hooks.tell("next")
    assert json.loads(receiver.wait(4)[-1][2])["event"] == "serving.next"
    assert [(event, facts["lost"]) for event, facts in told] == [("webhook_lost", "serving.poison")]


TELLS = """
import sys, time
from pathlib import Path
from danlu.recipe.serving import WebhookSection
from danlu.serving.webhooks import Webhooks
home, url, key_file, num = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
section = WebhookSection(url=url, key_file=key_file, private=True)
hooks = Webhooks([section], audit=home / "audit.jsonl", home=home, told=print, waits_s=(0.01,), poll_s=0.02)
for n in range(num):
    hooks.tell("worker", n=n)
print("told", flush=True)
time.sleep(60)
"""


def told_and_killed(home, url, key_file, num, after_s):
    child = subprocess.Popen([sys.executable, "-c", TELLS, str(home), url, key_file, str(num)], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"told\n"
    time.sleep(after_s)
    child.kill()
    child.wait()


def test_sigkill_loses_no_event(tmp_path, key_file, quick):
    """Nobody was there, and the server was killed: they were in its memory, and gone."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    told_and_killed(tmp_path, f"http://127.0.0.1:{port}/hook", key_file, 5, 0.1)
    receiver = Receiver(port=port)
    hooks, _ = quick(tmp_path, f"http://127.0.0.1:{port}/hook", key_file)
    hooks.tell("worker", n=5)
    got = [json.loads(body) for _, _, body, _ in receiver.wait(6)]
    assert [event["facts"]["n"] for event in got] == list(range(6))
    a_moment()
    assert len(receiver.got) == 6 == len({event["id"] for event in got})


def test_what_was_under_way_when_the_server_was_killed_comes_again_with_its_id(tmp_path, key_file, quick):
    receiver = Receiver(delay_s=0.1)
    told_and_killed(tmp_path, receiver.url, key_file, 8, 0.35)
    quick(tmp_path, receiver.url, key_file)
    until_true(lambda: len({body for _, _, body, _ in receiver.got}) >= 8)
    numbers = [json.loads(body)["facts"]["n"] for _, _, body, _ in receiver.got]
    assert sorted(set(numbers)) == list(range(8)) and len(numbers) <= 10
    assert numbers == sorted(numbers)
    assert len({headers["X-Danlu-Delivery"] for _, headers, _, _ in receiver.got}) == 8


def test_an_event_is_on_the_disk_before_anybody_hears_of_it_and_many_share_one_sync(
    tmp_path, key_file, quick, monkeypatch
):
    """A power cut after an event was sent left a receiver that knew more than we did."""
    held = [0]
    num_syncs, sync = [0], os.fsync

    def slow(descriptor):
        found = os.fstat(descriptor)
        sync(descriptor)
        if os.path.samestat(found, os.stat(tmp_path / "outbox.jsonl")):  # and not a cursor's
            time.sleep(0.1)
            held[0], num_syncs[0] = found.st_size, num_syncs[0] + 1

    seen, receiver = [], Receiver()
    hooks, _ = quick(tmp_path, receiver.url, key_file)
    monkeypatch.setattr(webhooks, "send", lambda *given: seen.append((held[0], given[3])) or send(*given))
    monkeypatch.setattr("danlu.serving.outbox.os.fsync", slow)
    for number in range(60):
        hooks.tell("replica_lost", number=number)
    receiver.wait(60)
    lines = (tmp_path / "outbox.jsonl").read_bytes()
    for size, body in seen:
        assert lines.index(json.loads(body)["id"].encode()) < size
    assert num_syncs[0] < 20


def test_a_disk_that_cannot_sync_keeps_no_event_back(tmp_path, key_file, quick, monkeypatch):
    receiver = Receiver()
    hooks, _ = quick(tmp_path, receiver.url, key_file)

    def fails(descriptor):
        raise OSError(5, "EIO")

    monkeypatch.setattr("danlu.serving.outbox.os.fsync", fails)
    hooks.tell("replica_lost")
    receiver.wait(1)
    monkeypatch.undo()
    hooks.tell("replica_back")
    receiver.wait(2)


def test_the_outbox_is_bounded_and_says_what_it_lost(tmp_path, key_file, quick):
    receiver = Receiver([503] * 10_000)
    hooks, told = quick(tmp_path, receiver.url, key_file, most_bytes=20_000)
    for n in range(500):
        hooks.tell("worker", n=n)
        assert (tmp_path / webhooks.OUTBOX).stat().st_size <= 20_000
    num_lost = sum(int(facts["lost"].split()[0]) for event, facts in told if event == "webhook_lost")
    receiver.statuses.clear()
    until_true(
        lambda: any(json.loads(body)["facts"]["n"] == 499 for _, _, body, status in receiver.got if status == 200)
    )
    numbers = [json.loads(body)["facts"]["n"] for _, _, body, status in receiver.got if status == 200]
    assert numbers == sorted(set(numbers)) and num_lost > 0
    assert len(numbers) + num_lost >= 500, "what did not come was said to be lost"
    assert len(numbers) > 50


def test_an_outbox_torn_by_a_crash_goes_on_behind_the_last_whole_event(tmp_path):
    path = tmp_path / "outbox.jsonl"
    box = Outbox(path)
    box.add({"n": 0}, {})
    end = box.end
    box.close()
    with path.open("ab") as file:
        file.write(b'{"n": 1, "hal')
    again = Outbox(path)
    assert again.end == end and again.read(0) == [({"n": 0}, end)]
    again.add({"n": 2}, {})
    assert [told["n"] for told, _ in again.read(end)] == [2]
    again.close()


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3)), max_size=60))
@settings(max_examples=60)
def test_an_outbox_gives_each_reader_all_that_it_did_not_say_was_lost(tmp_path, steps):
    """Two readers of different speed, restarts between."""
    path = tmp_path / f"{os.urandom(6).hex()}.jsonl"
    box = Outbox(path, most_bytes=2000)
    places, got, lost = {"a": 0, "b": 0}, {"a": [], "b": []}, {"a": 0, "b": 0}
    for n, (size, what) in enumerate(steps):
        for name, num in box.add({"n": n, "text": "x" * size}, places).items():
            lost[name] += num
        for name in ("a", "b")[: what % 3]:
            for told, behind in box.read(places[name]):
                got[name].append(told["n"])
                places[name] = behind
        if what == 3:
            box.close()
            box = Outbox(path, most_bytes=2000)
    for name in got:
        got[name] += [told["n"] for told, _ in box.read(places[name])]
        assert got[name] == sorted(set(got[name])) and len(got[name]) + lost[name] == len(steps)
    box.close()


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
