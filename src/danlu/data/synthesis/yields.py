"""What synthesis brought: asked, answered, parsed, grounded, kept; why the rest was refused; what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.core.files import dump_json, write_bytes, write_json
from danlu.core.messages import say
from danlu.data.synthesis.facts import Fault
from danlu.data.synthesis.teacher import Reply

SAID_CHARACTERS = 2000


@dataclass(slots=True)
class Yield:
    """Counts of one synthesis; every item that was parsed is kept or refused with a reason."""

    num_asked: int = 0
    num_failed: int = 0
    """Requests without an answer, after all tries."""
    num_undone: int = 0
    """Requests never sent, because a cap was reached."""
    num_parsed: int = 0
    """Replies that held what was asked for."""
    num_items: int = 0
    num_grounded: int = 0
    """Items about documents whose evidence was found and holds the answer."""
    num_kept: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    undone: Counter[str] = field(default_factory=Counter)
    """What a cap left undone, by step."""
    refused: list[dict[str, Any]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    """What servers said instead of an answer."""
    cost: dict[str, Any] = field(default_factory=dict)

    def hear(self, step: str, replies: Sequence[Reply]) -> None:
        """Count the replies of one step."""
        undone = sum(reply.finish == "undone" for reply in replies)
        self.num_asked += len(replies) - undone
        self.num_failed += sum(reply.finish == "error" for reply in replies)
        self.errors.update(reply.error[:300] for reply in replies if reply.finish == "error")
        self.num_undone += undone
        if undone:
            self.undone[step] += undone

    def refuse(self, fault: Fault, *, where: str, said: str = "") -> None:
        self.reasons[fault.reason] += 1
        self.refused.append(
            {"where": where, "reason": fault.reason, "values": fault.values, "said": said[:SAID_CHARACTERS]}
        )

    def keep(self, kind: str) -> None:
        self.num_kept += 1
        self.kinds[kind] += 1

    def to_json(self) -> dict[str, Any]:
        return {
            "asked": self.num_asked, "failed": self.num_failed, "parsed": self.num_parsed, "items": self.num_items,
            "grounded": self.num_grounded, "kept": self.num_kept, "kinds": dict(sorted(self.kinds.items())),
            "refused": [
                {"reason": reason, "count": count, "text": say(f"synthesis.why_{reason}")}
                for reason, count in self.reasons.most_common()
            ],
            "undone": {"requests": self.num_undone, "steps": dict(sorted(self.undone.items()))},
            "errors": [{"said": said, "count": count} for said, count in self.errors.most_common(5)],
            "cost": self.cost,
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """`yield.json` and `refused.jsonl` in the folder."""
        write_bytes(
            folder / "refused.jsonl", b"".join(dump_json(entry, indent=False) + b"\n" for entry in self.refused)
        )
        write_json(folder / "yield.json", self.to_json())
