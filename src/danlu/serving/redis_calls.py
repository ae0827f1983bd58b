"""Calls of one script over one connection. What is asked while an answer is under way goes out together as soon as it
is there: the more is asked, the less each costs, and there is one connection however much is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_MOST_TOGETHER = 256


@dataclass(slots=True)
class _Call:
    keys: Sequence[str]
    args: Sequence[str | float]
    answer: asyncio.Future[Any]


class Calls:
    """`await calls.ask(keys, args)`. `given_up(keys, args, answer)` is told what was answered to a caller that had been
    cancelled meanwhile. Errors are redis-py's own."""

    def __init__(
        self, client: Any, script: str, given_up: Callable[[Sequence[str], Sequence[str | float], Any], None]
    ) -> None:
        from redis.exceptions import NoScriptError, RedisError  # an extra

        self._client, self._script, self._given_up = client, script, given_up
        self._errors, self._unknown = (RedisError, OSError, TimeoutError), NoScriptError
        self._sha = ""
        self._waiting: list[_Call] = []
        self._sender: asyncio.Task[None] | None = None

    async def ask(self, keys: Sequence[str], args: Sequence[str | float]) -> Any:
        call = _Call(keys, args, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return await call.answer

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST_TOGETHER], self._waiting[_MOST_TOGETHER:]
                await self._send(batch)
        finally:
            self._sender = None

    async def _send(self, batch: Sequence[_Call]) -> None:
        try:
            answers = await self._answers(batch)
            missing = [n for n, answer in enumerate(answers) if isinstance(answer, self._unknown)]
            if missing:  # Redis was started anew: none of these ran
                self._sha = ""
                again = await self._answers([batch[n] for n in missing])
                for n, answer in zip(missing, again, strict=True):
                    answers[n] = answer
        except self._errors as error:
            answers = [error] * len(batch)
        except asyncio.CancelledError:
            for call in batch:
                call.answer.cancel()
            raise
        for call, answer in zip(batch, answers, strict=True):
            if call.answer.cancelled():
                if not isinstance(answer, Exception):
                    self._given_up(call.keys, call.args, answer)
            elif isinstance(answer, Exception):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)

    async def _answers(self, batch: Sequence[_Call]) -> list[Any]:
        if not self._sha:
            self._sha = await self._client.script_load(self._script)
        pipe = self._client.pipeline(transaction=False)
        for call in batch:
            pipe.evalsha(self._sha, len(call.keys), *call.keys, *call.args)
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers
