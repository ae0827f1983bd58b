"""The server's door for its own people: `<home>/control.sock`, 0600, one JSON request a line and one reply.

`{"do": "switch", "model": "law", "to": "law:4", "reason": "…"}` → `{"done": {…}}` or `{"refused": {key, where,
values}}`.
Requests are typed: what is not in their schema is refused. Errors travel as key and values, so that each side speaks
its own language. Not for clients of the API, and never on a port.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from danlu.core.errors import DanluError, EngineError, RunError
from danlu.core.files import dump_json
from danlu.core.messages import Language
from danlu.serving.line import listen, reachable

NAME = "control.sock"
MAX_REPLY_BYTES = 64 * 2**20
_WORDS_BEFORE = {"flip": "switch", "back": "rollback", "drop": "remove"}
"""What audit logs call these whose lines are older than the words."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Status(_Request):
    do: Literal["status"] = "status"


class Add(_Request):
    do: Literal["add"] = "add"
    model: str = Field(pattern=r"^[\w][\w.\-]{0,63}$")
    to: str
    reason: str = ""


class Switch(_Request):
    do: Literal["switch"] = "switch"
    model: str
    to: str
    reason: str = ""


class Split(_Request):
    do: Literal["split"] = "split"
    model: str
    shares: dict[str, float]
    reason: str = ""


class Rollback(_Request):
    do: Literal["rollback"] = "rollback"
    model: str
    reason: str = ""


class Remove(_Request):
    do: Literal["remove"] = "remove"
    name: str
    reason: str = ""


class Reload(_Request):
    do: Literal["reload"] = "reload"
    reason: str = ""
    language: Language | None = None
    """What is wrong with the settings is told in this one; None: in the server's own."""


Request = Status | Add | Switch | Split | Rollback | Remove | Reload
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="do")])


def action_now(action: str) -> str:
    """An action of the audit log in today's word: `serving.flip_failed` is `serving.switch_failed`. Lines stay as they
    are: their hashes are made of what they say."""
    room, _, deed = action.partition(".")
    word, _, rest = deed.partition("_")
    if room != "serving" or word not in _WORDS_BEFORE:
        return action
    return f"{room}.{_WORDS_BEFORE[word]}{'_' if rest else ''}{rest}"


class Control:
    """The server's end. `answer` does what is asked; a DanluError is its refusal."""

    def __init__(self, home: Path, answer: Callable[[Request], Awaitable[dict[str, Any]]]) -> None:
        self.path = home / NAME
        self._answer = answer
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        self._server = await listen(self.path, self._serve)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(dump_json(await self._reply(line), indent=False) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # gone, or a line without end
            pass
        finally:
            writer.close()

    async def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            request = _REQUEST.validate_json(line)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            said = f"{'.'.join(map(str, fault['loc'])) or '-'}: {fault['msg']}"
            return _refusal(EngineError("rollout.request", where=NAME, said=said))
        try:
            return {"done": await self._answer(request)}
        except DanluError as error:
            return _refusal(error)


def is_running(home: Path) -> bool:
    """Whether a server runs on this home."""
    with suppress(OSError), reachable(home / NAME) as name, socket.socket(socket.AF_UNIX) as trial:
        trial.connect(name)
        return True
    return False


def refuse_second(home: Path) -> None:
    """RunError where a server runs on this home already: before it is looked what else would be wrong."""
    if is_running(home):
        raise RunError("rollout.is_running", where=str(home / NAME), given=str(home))


def ask(home: Path, request: Request) -> dict[str, Any]:
    """What a running server answers. EngineError where none runs, or with its refusal. Waits as long as it takes: a
    switch is done when every worker goes by it."""
    path = home / NAME
    try:
        with reachable(path) as name, socket.socket(socket.AF_UNIX) as speaker:
            speaker.connect(name)
            speaker.sendall(request.model_dump_json().encode() + b"\n")
            reply = _line(speaker)
    except OSError as fault:
        raise EngineError("rollout.not_running", where=str(path), given=str(home)) from fault
    if not reply:
        raise EngineError("rollout.hung_up", where=str(path))
    value: dict[str, Any] = orjson.loads(reply)
    if refused := value.get("refused"):
        raise EngineError(refused["key"], where=refused["where"], **refused["values"])
    done: dict[str, Any] = value["done"]
    return done


def _line(speaker: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"\n") and len(found) < MAX_REPLY_BYTES:
        piece = speaker.recv(1 << 16)
        if not piece:
            break
        found += piece
    return found


def _refusal(error: DanluError) -> dict[str, Any]:
    return {"refused": {"key": error.key, "where": error.where, "values": error.values}}
