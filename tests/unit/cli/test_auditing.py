"""What forget and audit print: one line a row, and sentences that fit any number."""

from danlu.cli.auditing import _rows_of
from danlu.core.messages import load_room


def test_a_row_is_one_line_however_much_was_found_in_it() -> None:
    """A row with two mobiles and a name stood there three times."""
    row = {"sample": "s_1", "file": "a.csv", "line": 3, "action": "mask"}
    found = [row | {"type": "mobile"}, row | {"type": "mobile"}, row | {"type": "name"}]
    found.append({"sample": "s_2", "type": "derived", "action": "keep"})
    assert _rows_of(found) == ["s_1  mobile mask × 2, name mask  a.csv:3", "s_2  derived keep"]


def test_no_number_stands_before_a_plural() -> None:
    """ "not to be trusted: 1 problems"."""
    said = [
        load_room("audit", "en")[name] for name in ("verified", "verify_failed", "rotated", "rekeyed", "missing_log")
    ]
    assert not [text for text in said if "{count} " in str(text) or "{anchors} " in str(text)]
