"""What each answer of the native engine's server came to. A gateway that ends an answer by its id is told, once nothing
is computed for it any more; also of one that ended by itself meanwhile, and of one that never began and now never will.
Belongs to the loop's thread. Torch-free.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danlu.engines.live import Ticket, Update

MOST_KEPT = 4096
"""Bills of answers that are over; a gateway asks within milliseconds."""


@dataclass(slots=True, eq=False)
class Bill:
    """Of one id; all its choices, and should it be asked twice, both times together."""

    prompt_tokens: int = 0
    """That were read."""
    answer_tokens: int = 0
    is_cancelled: bool = False
    running: dict[int, Ticket] = field(default_factory=dict)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def usage(self) -> dict[str, int]:
        asked, made = self.prompt_tokens, self.answer_tokens
        return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}


class Bills:
    """Each ticket is added when it is submitted, and closed with its last update, whatever that says."""

    def __init__(self) -> None:
        self._bills: OrderedDict[str, Bill] = OrderedDict()
        self._by_ticket: dict[int, Bill] = {}

    def of(self, id: str) -> Bill:
        """A new one where there is none."""
        bill = self._bills.get(id)
        if bill is None:
            bill = self._bills[id] = Bill()
            bill.is_over.set()
            if len(self._bills) > MOST_KEPT:
                self._forget()
        return bill

    def add(self, id: str, ticket: Ticket) -> None:
        bill = self._by_ticket[_key(ticket)] = self.of(id)
        bill.running[_key(ticket)] = ticket
        bill.is_over.clear()

    def close(self, update: Update) -> None:
        bill = self._by_ticket.pop(_key(update.ticket), None)
        if bill is None:
            return
        del bill.running[_key(update.ticket)]
        bill.prompt_tokens += update.ticket.row.num_done
        bill.answer_tokens += update.num_tokens
        if not bill.running:
            bill.is_over.set()

    def _forget(self) -> None:
        """The oldest that is over."""
        for id, bill in self._bills.items():
            if not bill.running:
                del self._bills[id]
                return


def _key(ticket: Ticket) -> int:
    """A ticket that is written down here lives, so nothing else has its identity."""
    return id(ticket)
