"""General rows beside the domain's own: they go the way of all rows, and each of them is accounted for.

`replay.py` lets the base say them; here they are read or asked for, cleaned, masked, compared with what is held out,
and handed to the desks. What no desk needs is spare: it stays with the run's rows and is in no dataset.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from danlu.core.progress import Progress
from danlu.data.certificate import UNUSED
from danlu.data.flow.account import MOST_LISTED, fold
from danlu.data.flow.conveyor import convey
from danlu.data.flow.passing import Passing, ShardFacts, pass_samples
from danlu.data.flow.piece import KINDS, AnyPiece, Places, Row, streamed
from danlu.data.flow.plan import Plan
from danlu.data.flow.store import Store
from danlu.data.ledger import Entry, Ledger
from danlu.data.twins import Settings
from danlu.pipeline.beside import leave_out_like_held_out
from danlu.pipeline.furnace import Smelted
from danlu.pipeline.parts import REPLAY
from danlu.pipeline.replay import make_replay
from danlu.recipe.recipe import Recipe

FOLDER = "replay"


class Replay:
    """Rows for any desk that asks; read or made when the first does. `ledger` is their own account."""

    def __init__(
        self, recipe: Recipe, smelted: Smelted, plan: Plan | None, passing: Passing, store: Store, progress: Progress
    ) -> None:
        """`plan`: of the replay file; None where the base is asked."""
        self.recipe, self.plan, self.passing, self.store, self.progress = recipe, plan, passing, store, progress
        self.smelted, self.parts = smelted, smelted.parts
        self.first_row, self.first_piece = len(self.parts.part), len(self.parts.pieces)
        self.ledger = Ledger(most=MOST_LISTED)
        self._num_tokens = self._num_made = 0

    def rows(self, num_tokens: int, kinds: Collection[str]) -> Iterator[tuple[int, Row]]:
        """(number, row) of these kinds, in the order to take them; of about so many tokens where the base says them."""
        if num_tokens > self._num_tokens:
            self._fetch(num_tokens)
            self._num_tokens = num_tokens
        is_kind = np.isin(self.parts.column("row_kind"), [KINDS.index(kind) for kind in kinds])
        wanted = self.parts.verdicts.stays & is_kind
        wanted[: self.first_row] = False
        return streamed(self.parts.pieces, wanted)

    def take(self, rows: Sequence[int]) -> None:
        """These are trained on."""
        self.parts.part[list(rows)] = REPLAY

    @property
    def num_taken(self) -> int:
        return self.parts.count("replay")

    def account(self, encoded: Sequence[Ledger]) -> Iterator[Entry]:
        """Every row that was refused, on the way or by all desks that tried it; completes `ledger`."""
        pieces, ledger = self.parts.pieces, self.ledger
        yield from fold(pieces, self.parts.verdicts, ledger, range(self.first_piece, len(pieces)))
        places, rows = Places.of(pieces), np.flatnonzero(self.parts.part == REPLAY)
        taken = {(places.files[places.file[row]], int(places.line[row])) for row in rows}
        known: set[tuple[str, int, str]] = set()
        for entry in [entry for one in encoded for entry in one.rejects]:
            name = entry.file, entry.line, entry.reason
            if name in known or name[:2] in taken:
                continue
            known.add(name)
            ledger.revoke(entry.file, entry.line, entry.reason, **entry.values)
            yield entry

    def to_json(self) -> dict[str, Any]:
        """The account as ledger.json holds it: `spare` rows were fit to use and not needed."""
        account = self.ledger.to_json()
        rows = account["rows"]
        spare = rows["used"] - self.num_taken
        return account | {"rows": rows | {"used": self.num_taken, "spare": spare}}

    def _fetch(self, num_tokens: int) -> None:
        if self.plan is None:
            self._add(self._ask(num_tokens))
        elif not self._num_tokens:
            section = self.recipe.data
            read = convey(self.plan, self.passing, self.store, engine=section.engine, num_workers=section.workers,
                          progress=self.progress)  # fmt: skip
            self.smelted.conveyed.append(read)
            self.ledger.merge(read.ledger())
            self._add(read.pieces)

    def _ask(self, num_tokens: int) -> list[AnyPiece]:
        """What the base says beyond what it said before: more tokens are the same answers, and then others."""
        samples = make_replay(self.recipe, num_tokens, self.store.folder / FOLDER, self.progress)[self._num_made :]
        self._num_made += len(samples)
        facts = ShardFacts()
        pieces: list[AnyPiece] = list(pass_samples(samples, self.passing, facts))
        self.ledger.num_read += facts.num_read
        self.ledger.num_used += sum(map(len, pieces))
        self.smelted.made += pieces
        return pieces

    def _add(self, pieces: Sequence[AnyPiece]) -> None:
        if not pieces:
            return
        first = len(self.parts.part)
        self.parts.add(pieces, UNUSED)
        settings = Settings(threshold=self.recipe.data.cleaning.similarity)
        leave_out_like_held_out(self.parts, first, settings)
