"""The one place where a tag is written: text and attribute values are escaped here, so nowhere else need be."""

from __future__ import annotations

from typing import Literal

from markupsafe import Markup, escape

Tone = Literal["", "good", "bad", "warn", "base", "tuned", "accent", "soft"]
Content = str | Markup | None
Attribute = str | int | float | bool | None


def tag(name: str, attributes: dict[str, Attribute] | None = None, *content: Content) -> Markup:
    """`<name a="b">content</name>`; None and False attributes are left out, True ones stand alone."""
    parts = [f"<{name}"]
    for key, value in (attributes or {}).items():
        if value is True:
            parts.append(f" {key}")
        elif value is not None and value is not False:
            parts.append(f' {key}="{escape(_plain(value))}"')
    inside = "".join(str(escape(part)) for part in content if part is not None)
    # Every part is escaped above or a Markup already.
    return Markup("".join(parts) + f">{inside}</{name}>")  # noqa: S704


def join(*content: Content) -> Markup:
    return Markup("").join(part for part in content if part is not None)


def _plain(value: Attribute) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
