"""The page of snippets: strict, in both languages, looked at in a browser; and what it tells to copy works."""

import re
import subprocess
from collections.abc import Iterator

import pytest

from danlu.serving.snippets import pages, snippets
from worker_kit import Engine, Stage


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("page"), Engine())
    made.show()
    made.start()
    made.wait()
    yield made
    made.close()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_allows_itself_nothing_but_its_own_look(language):
    body, headers = pages("http://x:1")[language]
    policy = dict(headers)[b"content-security-policy"].decode()
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert "http-equiv" not in body.decode() and " style=" not in body.decode()
    assert len(re.findall(r"<pre>", body.decode())) == 6


def test_in_a_browser(browser, stage):
    url = f"http://127.0.0.1:{stage.port}"
    page = browser.new_page(locale="zh-CN", viewport={"width": 900, "height": 1200})
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    assert page.locator("h1").inner_text() == "如何调用本服务"
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgba(0, 0, 0, 0)"
    )  # its style was let in
    page.click("footer a")
    assert page.locator("h1").inner_text() == "How to call this server"
    assert page.locator("pre").count() == 6 and f"{url}/v1/chat/completions" in page.content()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert complaints == []
    page.close()


def test_what_is_copied_works(stage):
    """The curl line and the Python lines, as they stand there."""
    told = dict(snippets(f"http://127.0.0.1:{stage.port}", "law", "en"))
    environment = {"OPENAI_API_KEY": stage.key, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(
        ["sh", "-c", told["serve.snippet_curl"]],
        capture_output=True,
        text=True,
        env=environment,
        timeout=30,
        check=False,
    )
    assert done.stdout.rstrip().endswith("data: [DONE]"), done
    done = subprocess.run(
        ["sh", "-c", told["serve.snippet_models"]],
        capture_output=True,
        text=True,
        env=environment,
        timeout=30,
        check=False,
    )
    assert '"id":"law"' in done.stdout
    pytest.importorskip("openai", reason="OpenAI's client is not installed")
    import sys

    done = subprocess.run(
        [sys.executable, "-c", told["serve.snippet_python"]],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == ("ja " * 8).strip(), done.stderr[-500:]
