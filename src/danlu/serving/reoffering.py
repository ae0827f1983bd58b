"""A reload's models: what is offered now and was not is served, what is offered otherwise is switched to, what is
offered no more is removed. What was changed or added by hand stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from danlu.serving.rollout import Offer, Rollout

RELOAD = "reload"
"""The reason that the audit log gives."""


async def reoffer(rollout: Rollout, before: Sequence[Offer], after: Sequence[Offer]) -> dict[str, Any]:
    """All of it or, with a DanluError, nothing. Models by what became of them: `added`, `changed`, `removed`."""
    was, now = ({offer.model: offer for offer in offers} for offers in (before, after))
    added = [offer for offer in after if offer.model not in rollout.models]
    changed = [offer for offer in after if offer not in added and offer != was.get(offer.model)]
    removed = [name for name in was if name not in now and name in rollout.models]
    async with AsyncExitStack() as undo:
        for offer in added:
            await rollout.take(offer, reason=RELOAD)
            undo.push_async_callback(_undo, rollout, offer, None)
        for offer in changed:
            await rollout.retarget(offer, reason=RELOAD)
            undo.push_async_callback(_undo, rollout, offer, was.get(offer.model))
        undo.pop_all()
    for name in removed:
        await rollout.remove(name, reason=RELOAD)
    found = {"added": [o.model for o in added], "changed": [o.model for o in changed], "removed": removed}
    return {deed: models for deed, models in found.items() if models}


async def _undo(rollout: Rollout, offer: Offer, was: Offer | None) -> None:
    """`was`: what it was offered as before. One that was added by hand before it stood in the file stays switched."""
    if was is not None:
        await rollout.retarget(was, reason=RELOAD)
    elif offer.model in rollout.models:
        await rollout.remove(offer.model, reason=RELOAD)
