"""What the store asks of a database: statements with places for values, transactions, and word of changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

Values: TypeAlias = Sequence[str | int | float | bytes | None]


class Transaction(Protocol):
    """Statements of one transaction."""

    def __call__(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]: ...

    def many(self, statement: str, rows: Iterable[Values]) -> None: ...


class Database(Protocol):
    """A connection. Statements mark values with `?`."""

    where: str
    """For people; without a password."""
    errors: tuple[type[Exception], ...]
    """What it raises when the database is away or refuses."""

    def writing(self) -> AbstractContextManager[Transaction]:
        """A transaction, alone among writers: kept when the block ends well, else undone."""
        ...

    def read(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]: ...

    def has_changed(self) -> bool:
        """Whether others may have written since it was last asked: cheap, and never wrongly False."""
        ...

    def close(self) -> None: ...
