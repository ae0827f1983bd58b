"""The page around the blocks: head, look, the one inline script, header and footer."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from markupsafe import Markup

from danlu.core.html.tag import Content, join, tag
from danlu.core.messages import Language

_HTML_LANGUAGE = {"zh": "zh-CN", "en": "en"}


def page(
    *blocks: Content, title: str, language: Language, kicker: str = "", lead: Content = "", footer: Content = ""
) -> str:
    """A complete HTML document. It loads nothing: its Content-Security-Policy allows its own style and its own script,
    so that a script smuggled in by an answer could not run even if it were not escaped."""
    script = _resource("table.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    head = join(
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta http-equiv="Content-Security-Policy" content="{}">').format(policy),
        Markup('<meta name="color-scheme" content="light dark"><meta name="generator" content="danlu">'),
        tag("title", None, title),
        Markup("<style>{}</style>").format(Markup(_resource("look.css"))),  # noqa: S704
    )
    header = tag(
        "header",
        {"class": "top"},
        Markup(_resource("mark.svg").strip()),  # noqa: S704
        tag(
            "div",
            None,
            tag("p", {"class": "kicker"}, kicker),
            tag("h1", None, title),
            tag("p", {"class": "lead"}, lead),
        ),
    )
    body = join(
        tag("div", {"class": "sheet"}, header, tag("main", None, *blocks), tag("footer", None, footer)),
        Markup("<script>{}</script>").format(Markup(script)),  # noqa: S704
    )
    return f'<!doctype html>\n<html lang="{_HTML_LANGUAGE[language]}"><head>{head}</head><body>{body}</body></html>\n'


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
