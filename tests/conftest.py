"""One thread per worker, no hub, and where the real data lies."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from danlu.core.messages import set_language

_HOME = tempfile.TemporaryDirectory(prefix="danlu-home-", ignore_cleanup_errors=True)
# Keys, known servers and what other programs leave in a home stay out of a person's own, which may not be writable.
os.environ.setdefault("PLAYWRIGHT_BROWSERS_PATH", str(Path.home() / ".cache" / "ms-playwright"))
os.environ["HOME"] = _HOME.name
# Children speak English as the tests do, whatever the machine's language is; one that asks otherwise says so.
os.environ["LANG"] = "C.UTF-8"
for _name in ("LC_ALL", "LC_MESSAGES"):
    os.environ.pop(_name, None)

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in a shell's background job; whatever tests start inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing of the code where the machine is busy with other things.
settings.register_profile(
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def english():
    """Messages in English unless a test asks otherwise."""
    set_language("en")
    yield
    set_language(None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the project; tests that need it are skipped, with the reason, where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the real data folder ../shared/data is not here")
    return SHARED


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser for pages; skipped, with the reason, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no browser driver: pip install playwright")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with playwright.sync_playwright() as driver:
        try:
            opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium to look with: {str(error)[:80]}")
        yield opened
        opened.close()


@pytest.fixture
def look(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file as a page of that size. When the test ends, the page must not have complained, asked anybody for
    anything, or run a script out of somebody's text."""
    pages, faults = [], list[str]()

    def opened(path: Path, width: int, height: int = 844) -> Any:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on("request", lambda request: faults.append(request.url) if not request.url.startswith("file:") else None)
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield opened
    assert faults == []
    for page in pages:
        page.close()
