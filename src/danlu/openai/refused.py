"""A request that is refused: the error in OpenAI's shape.

Clients parse errors, so `message` is English and `code` is the machine's word for it; the texts of both languages lie
in the catalogues, where the documentation takes them from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from danlu.core.messages import say

Headers = tuple[tuple[bytes, bytes], ...]
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
MOST_QUOTE_CHARS = 120


class RefusedError(Exception):
    """A request that gets an error for an answer. `key` is a catalogue's; its last part is the client's `code`, but for
    the second wordings of one fault (`unknown_parameter_near`, `context_length_exceeded_said`)."""

    def __init__(
        self, key: str, *, status: int = 400, param: str | None = None, headers: Headers = (), **values: Any
    ) -> None:
        super().__init__(key)
        self.key, self.status, self.param, self.headers, self.values = key, status, param, headers, values

    @property
    def code(self) -> str:
        return self.key.rpartition(".")[2].removesuffix("_near").removesuffix("_said")

    def to_json(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status) or ("invalid_request_error" if self.status < 500 else "server_error")
        message = say(self.key, "en", **self.values).replace("\n  → ", "; ")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}


def quoted(value: Any) -> str:
    """A client's own value, short, on one line, for a message to that client."""
    match value:
        case None | True | False:
            text = {None: "null", True: "true", False: "false"}[value]
        case list() | dict():
            text = str(value) if not value else "an array" if type(value) is list else "an object"
        case _:
            text = repr(value)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= MOST_QUOTE_CHARS else text[: MOST_QUOTE_CHARS - 1] + "…"


def listed(names: Iterable[str]) -> str:
    return ", ".join(names)
