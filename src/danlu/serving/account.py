"""The account of one admitted request: its reservation, the engine it leased, what the journal says of it. Whatever
happens on the way, it is settled once.
"""

from __future__ import annotations

import contextlib
import time

import aiohttp

from danlu.openai.refused import RefusedError
from danlu.serving.ask import Ask
from danlu.serving.caps import Caps
from danlu.serving.events import Usage
from danlu.serving.journal import Closing, Journal, Opening, Outcome
from danlu.serving.limits import Admission, Limiter
from danlu.serving.notes import Noted
from danlu.serving.redact import Redacted
from danlu.serving.replies import retry_after
from danlu.serving.router import Lease, NoReplicaError, Router, UnknownModelError
from danlu.serving.tally import Tally


def no_engine(model: str, none: NoReplicaError) -> RefusedError:
    """Either it comes back within seconds, or trying again is of no use until somebody has looked at it."""
    wait = retry_after(none.retry_s)
    if not none.is_broken:
        return RefusedError("gateway.no_engine", status=503, headers=wait, model=model)
    never = (b"x-should-retry", b"false")
    return RefusedError("gateway.model_not_loaded", status=503, headers=(*wait, never), model=model)


class Account:
    """Made with an accepted reservation; `open` before an engine is asked, `settle` before the last byte goes out."""

    def __init__(self, ask: Ask, tally: Tally, admission: Admission, limiter: Limiter, journal: Journal) -> None:
        self.ask, self.tally, self.admission = ask, tally, admission
        self._limiter, self._journal = limiter, journal
        self._lease: Lease | None = None
        self._is_settled = False
        self.redacted: Redacted | None = None
        """What is masked of question and answer, where anything is."""
        self.noted: Noted | None = None
        """What is appended to the answer, where anything is."""

    @property
    def lease(self) -> Lease:
        assert self._lease is not None, "an account is opened before an engine is asked"
        return self._lease

    def open(self, router: Router, since_s: float) -> None:
        """Lease an engine and write the journal's first line. RefusedError where no engine is there now."""
        ask, tally = self.ask, self.tally
        try:
            self._lease = lease = router.lease(ask.model, ask)
        except UnknownModelError:
            raise RefusedError("gateway.model_not_found", status=404, param="model", model=ask.model) from None
        except NoReplicaError as none:
            raise no_engine(ask.model, none) from None
        tally.lens, tally.replica, tally.before_s, tally.num_tries = lease.lens.name, lease.replica.name, since_s, 1
        try:
            self._journal.opened(self._opening(lease))
        except OSError:  # what cannot be written down is not answered
            lease.release("refused")
            self._lease = None
            raise RefusedError("gateway.journal_unavailable", status=503, headers=retry_after(1.0)) from None

    def again(self, router: Router, caps: Caps, fault: Exception, outcome: Outcome) -> bool:
        """Lease another replica of the same lens after a fault that the client has seen nothing of. A connection that
        just closed may have been an old one, so its replica is asked again where there is no other."""
        failed = self.lease
        if self.tally.num_tries >= caps.num_tries:
            return False
        was_cut = isinstance(fault, aiohttp.ServerDisconnectedError | ConnectionResetError)
        for exclude in ((failed.replica.name,), ()) if was_cut else ((failed.replica.name,),):
            try:
                self._lease = router.lease(self.ask.model, self.ask, exclude, lens=failed.lens.name)
            except (NoReplicaError, UnknownModelError):
                continue
            failed.release(outcome)
            self.tally.num_tries += 1
            self.tally.replica = self.lease.replica.name
            return True
        return False

    async def settle(self, outcome: Outcome, status: int, usage: Usage, *, is_counted: bool, whole_s: float) -> None:
        """Once; later calls do nothing. The lease first: it waits for nobody."""
        if self._is_settled:
            return
        self._is_settled = True
        tally = self.tally
        tally.outcome, tally.is_counted = outcome, is_counted
        tally.prompt_tokens, tally.answer_tokens = usage.prompt_tokens, usage.answer_tokens
        try:
            if self._lease is not None:
                self._lease.release(outcome)
                self._journal.closed(self._closing(status, whole_s))
                self._note_redacted()
        finally:  # a disk that is full keeps nobody's reservation
            num_tokens = usage.prompt_tokens + usage.answer_tokens
            await self._limiter.settle(self.admission, num_tokens, time.time())

    def _note_redacted(self) -> None:
        if self.redacted is not None and (note := self.redacted.note()):
            with contextlib.suppress(OSError):  # the answer itself is written down, or owed
                self._journal.noted("redacted", id=self.ask.id, **note)

    def _opening(self, lease: Lease) -> Opening:
        ask = self.ask
        return Opening(
            id=ask.id,
            time=time.time(),
            key=self.admission.key.id,
            model=ask.model,
            lens=lease.lens.name,
            replica=lease.replica.name,
            reserved_tokens=ask.reserve_tokens,
            kind=ask.kind,
        )

    def _closing(self, status: int, whole_s: float) -> Closing:
        tally = self.tally
        return Closing(
            id=self.ask.id,
            time=time.time(),
            outcome=tally.outcome,
            status=status,
            prompt_tokens=tally.prompt_tokens,
            answer_tokens=tally.answer_tokens,
            is_counted=tally.is_counted,
            first_s=tally.first_s,
            whole_s=whole_s,
            error=tally.code,
        )
