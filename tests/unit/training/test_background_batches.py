"""Batches made ahead in a thread arrive in order, errors included, and a closed iterator leaves no thread behind."""

import threading

import pytest

from danlu.training.batches import ahead
from waiting_kit import a_moment, until_true


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "danlu-batches" and thread.is_alive()]


def test_order_is_kept():
    assert list(ahead(range(100))) == list(range(100))


def test_an_error_is_raised_where_its_thing_was_wanted():
    def things():
        yield 1
        raise LookupError("row 2")

    iterator = ahead(things())
    assert next(iterator) == 1
    with pytest.raises(LookupError, match="row 2"):
        next(iterator)


def test_only_a_few_are_made_ahead_and_closing_ends_the_thread():
    made = []
    iterator = ahead((made.append(i) or i for i in range(1000)), depth=2)
    assert next(iterator) == 0
    a_moment()
    assert len(made) <= 4
    iterator.close()
    until_true(lambda: not threads())
