"""What to copy: how to ask this server from a shell, from Python, from danlu. On the terminal at the start with the
models' own names; as a page at `/`, which anybody may read, and so names neither models nor keys nor versions.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

from danlu.core.html import page, section, tag
from danlu.core.messages import LANGUAGES, Language, say

MODEL, KEY = "MODEL", "$OPENAI_API_KEY"
"""The variable that OpenAI's own clients read."""
_QUESTION: dict[Language, str] = {"en": "Hello", "zh": "你好"}


def snippets(url: str, model: str, language: Language, *, ca: str = "") -> list[tuple[str, str]]:
    """(catalogue key of its title, text). `ca`: the file of a certificate that no authority vouches for."""
    ask = _QUESTION[language]
    trust = f" --cacert {ca}" if ca else ""
    body = f'{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "{ask}"}}]}}'
    python = f"""from openai import OpenAI

client = OpenAI(base_url="{url}/v1")  # reads OPENAI_API_KEY
for piece in client.chat.completions.create(
    model="{model}", stream=True, messages=[{{"role": "user", "content": "{ask}"}}]
):
    print(piece.choices[0].delta.content or "", end="") if piece.choices else None"""
    return [
        ("serve.snippet_key", "read -rs OPENAI_API_KEY && export OPENAI_API_KEY"),
        ("serve.snippet_curl", _curl(f"{url}/v1/chat/completions", body, trust)),
        ("serve.snippet_python", (f"# export SSL_CERT_FILE={ca}\n" if ca else "") + python),
        ("serve.snippet_chat", f"danlu chat {url} --key-file key.txt"),
        ("serve.snippet_models", f'curl{trust} {url}/v1/models -H "Authorization: Bearer {KEY}"'),
        (
            "serve.snippet_feedback",
            _curl(f"{url}/v1/feedback", '{"id": "chatcmpl-…", "rating": "down", "corrected": "…"}', trust),
        ),
    ]


def _curl(url: str, body: str, trust: str) -> str:
    return (
        f"curl -N{trust} {url} \\\n"
        f'  -H "Authorization: Bearer {KEY}" -H "Content-Type: application/json" \\\n'
        f"  -d '{body}'"
    )


def pages(url: str) -> dict[str, tuple[bytes, tuple[tuple[bytes, bytes], ...]]]:
    """The page in each language, ready to send: (body, headers)."""
    return {language: _page(url, language) for language in LANGUAGES}


def _page(url: str, language: Language) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
    blocks = [
        section(say(key, language), tag("div", {"class": "card scroll"}, tag("pre", None, tag("code", None, text))))
        for key, text in snippets(url, MODEL, language)
    ]
    other: Sequence[Language] = [each for each in LANGUAGES if each != language]
    links = [tag("a", {"href": f"/?lang={each}", "lang": each}, say("serve.page_language", each)) for each in other]
    text = page(
        *blocks, title=say("serve.page_title", language), language=language, kicker="danlu 丹炉",
        lead=say("serve.page_lead", language), footer=tag("p", None, *links),
    )  # fmt: skip
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)  # the header is stricter
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    policy += f"style-src {_hashes(text, 'style')}; script-src {_hashes(text, 'script')}"
    headers = (
        (b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"), (b"cache-control", b"no-store"),
        (b"cross-origin-opener-policy", b"same-origin"), (b"x-frame-options", b"DENY"),
    )  # fmt: skip
    return text.encode(), headers


def _hashes(text: str, name: str) -> str:
    inside = re.findall(rf"<{name}>(.*?)</{name}>", text, re.S)
    digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in inside]
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
