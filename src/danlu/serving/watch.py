"""The watch over one answer: the client that may hang up, and the three clocks. When one of them ends the answer, the
task that carries it is cancelled and `reason` says which; a cancellation without a reason is somebody else's.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from danlu.serving.caps import Caps
from danlu.serving.door import Call, Message

Reason = Literal["", "gone", "first", "between", "whole"]


class Watch:
    """Of the current task, from now until `end`. One task and one timer, however many pieces pass."""

    __slots__ = (
        "_between_s",
        "_first_at",
        "_is_flowing",
        "_last",
        "_listener",
        "_loop",
        "_task",
        "_timer",
        "_whole_at",
        "reason",
    )

    def __init__(self, call: Call, caps: Caps, *, is_stream: bool) -> None:
        task = asyncio.current_task()
        assert task is not None, "an answer is carried by a task"
        self._task, self._loop = task, asyncio.get_running_loop()
        self.reason: Reason = ""
        now = self._loop.time()
        self._last = now
        self._is_flowing = False
        self._between_s = caps.between_s
        self._whole_at = now + caps.whole_s
        self._first_at = now + (caps.first_s if is_stream else caps.whole_s)
        self._timer = self._loop.call_at(min(self._first_at, self._whole_at), self._tick)
        self._listener: asyncio.Task[Message] = self._loop.create_task(_listen(call))
        self._listener.add_done_callback(self._heard)

    def seen(self) -> None:
        """A piece came."""
        self._last = self._loop.time()
        if not self._is_flowing:
            self._is_flowing = True
            self._timer.cancel()
            self._tick()

    def end(self) -> None:
        self._timer.cancel()
        self._listener.remove_done_callback(self._heard)
        self._listener.cancel()

    def took(self, cancelled: asyncio.CancelledError) -> Reason:
        """Why the task was cancelled; raises `cancelled` again when it was not the watch."""
        if not self.reason:
            raise cancelled
        self._task.uncancel()
        return self.reason

    def _stop(self, reason: Reason) -> None:
        if not self.reason:
            self.reason = reason
            self._task.cancel()

    def _heard(self, listener: asyncio.Task[Message]) -> None:
        if not listener.cancelled():
            self._stop("gone")

    def _tick(self) -> None:
        now = self._loop.time()
        pause_at = self._last + self._between_s if self._is_flowing else self._first_at
        if now >= self._whole_at:
            self._stop("whole")
        elif now >= pause_at:
            self._stop("between" if self._is_flowing else "first")
        else:
            self._timer = self._loop.call_at(min(pause_at, self._whole_at), self._tick)


async def _listen(call: Call) -> Message:
    while (message := await call.receive())["type"] != "http.disconnect":
        pass  # a body that was read already
    return message
