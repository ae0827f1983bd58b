"""The error tree. Each error is also a stdlib error, names a catalogue key, and carries the values it speaks of.

To add one: subclass the nearest room's error; put the text (what was given, what was expected) and the fix in both
`core/messages/*/<room>.json`. `raise DataError("data.bad_json", where="qa.jsonl:17", given=...)`.
Errors are for people; `assert` with a message is for ourselves.
"""

from __future__ import annotations

from typing import Any

from danlu.core.messages import lookup, say


class DanluError(Exception):
    """An error a person can act on: `key` into the catalogue, `where` (file:line or recipe key), and `values`.

    Of the values `nearest` is for every key what was probably meant, or None: the fix begins with it.
    """

    def __init__(self, key: str, *, where: str = "", **values: Any) -> None:
        self.key, self.where, self.values = key, where, values
        super().__init__(key)

    @property
    def text(self) -> str:
        """What was given and what was expected."""
        filled = lookup(self.key)[0].format(**self.values)
        return f"{self.where}: {filled}" if self.where else filled

    @property
    def fix(self) -> str:
        """How to mend it, or ""."""
        mend = lookup(self.key)[1].format(**self.values)
        meant = self.values.get("nearest")
        return say("core.meant", nearest=meant, fix=mend).strip() if meant else mend

    def __str__(self) -> str:
        return f"{self.text}\n  → {self.fix}" if self.fix else self.text

    def to_json(self) -> dict[str, Any]:
        return {"error": self.key, "where": self.where, "message": self.text, "fix": self.fix}

    def __reduce__(self) -> tuple[Any, ...]:  # keyword-only arguments survive a process boundary
        return _rebuild, (type(self), self.key, self.where, self.values)


def _rebuild(cls: type[DanluError], key: str, where: str, values: dict[str, Any]) -> DanluError:
    return cls(key, where=where, **values)


class RecipeError(DanluError, ValueError):
    """The recipe asks for something that does not exist or does not fit together."""


class DataError(DanluError, ValueError):
    """Input data cannot be read or used."""


class TemplateError(DanluError, ValueError):
    """A chat template is missing, refused, or differs from the contract."""


class ModelError(DanluError, ValueError):
    """A checkpoint cannot be loaded: format, family, shape, licence or remote code."""


class HubError(DanluError, OSError):
    """A model hub could not deliver."""


class TrainingError(DanluError, RuntimeError):
    """Training had to stop."""


class RunError(DanluError, RuntimeError):
    """A run directory is missing, locked, foreign or of another version."""


class EngineError(DanluError, RuntimeError):
    """An engine could not answer."""


class EvaluationError(DanluError, ValueError):
    """Questions or answers cannot be judged."""


class ExportError(DanluError, RuntimeError):
    """An artefact could not be written or proven."""
