"""Where the server listens, and what it asks for before it does."""

import os
import socket
import ssl

import pytest

from danlu.core.errors import RunError
from danlu.serving.bind import address_text, check_bind, is_loopback, listen, own_hosts
from danlu.serving.private import read_private
from danlu.serving.tls import expires, tls_context
from worker_kit import make_certificate


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "192.168.0.1", "::ffff:10.0.0.1", "8.8.8.8"])
def test_incident_1_open_to_others_only_with_a_key_and_encryption(host):
    """175,108 hosts without authentication: each had been bound to all interfaces with nothing in between."""
    with pytest.raises(RunError) as caught:
        check_bind(host, num_keys=0, has_tls=True, plain_http=True)
    assert caught.value.key == "serve.no_keys"
    with pytest.raises(RunError) as caught:
        check_bind(host, num_keys=3, has_tls=False, plain_http=False)
    assert caught.value.key == "serve.no_tls"
    check_bind(host, num_keys=1, has_tls=True, plain_http=False)
    check_bind(host, num_keys=1, has_tls=False, plain_http=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"])
def test_this_machine_needs_neither(host):
    check_bind(host, num_keys=0, has_tls=False, plain_http=False)


def test_a_name_is_what_it_resolves_to(monkeypatch):
    """One of two addresses is enough to be open."""
    both = [(2, 1, 6, "", ("127.0.0.1", 0)), (2, 1, 6, "", ("10.0.0.7", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: both)
    assert not is_loopback("inner.example")


def test_a_host_that_is_none_is_said():
    with pytest.raises(RunError, match="no address"):
        is_loopback("no such host.invalid")


def test_a_taken_port_is_an_error_and_not_its_neighbour():
    first = listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    with pytest.raises(RunError, match=str(port)):
        listen("127.0.0.1", port)
    first.close()
    again = listen("127.0.0.1", port)
    assert os.get_inheritable(again.fileno())
    again.close()


def test_which_names_it_answers_to():
    """DNS rebinding: a page's own name that points here is none of them."""
    assert own_hosts("127.0.0.1", ()) == ("127.0.0.1", "localhost", "::1")
    assert own_hosts("0.0.0.0", ("api.firm.example",)) == ("api.firm.example",)
    assert socket.gethostname().lower() in own_hosts("0.0.0.0", ())
    assert address_text("::1", 80, has_tls=True) == "https://[::1]:80"
    assert address_text("0.0.0.0", 443, has_tls=True, hosts=("api.firm.example",)) == "https://api.firm.example:443"


def test_certificates_are_looked_at_first(tmp_path):
    cert, key = make_certificate(tmp_path)
    assert isinstance(tls_context(cert, key), ssl.SSLContext)
    assert expires(cert) > 0
    (tmp_path / "other").mkdir()
    _, stranger = make_certificate(tmp_path / "other")
    with pytest.raises(RunError, match="cannot be used"):
        tls_context(cert, stranger)
    with pytest.raises(RunError, match="not there"):
        tls_context(tmp_path / "none.pem", key)
    key.chmod(0o644)
    with pytest.raises(RunError, match="0644"):
        tls_context(cert, key)


def test_secrets_that_others_can_read_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("abc\n")
    secret.chmod(0o640)
    with pytest.raises(RunError, match="0640"):
        read_private(secret)
    secret.chmod(0o600)
    assert read_private(secret) == "abc"
    secret.write_text("two\nlines\n")
    with pytest.raises(RunError, match="one line"):
        read_private(secret)
