"""Private characters that travel through a template and never reach a model: escapes, spans, names of control tokens.

Unicode's noncharacters U+FDD0-FDEF are set aside for a program's own use and must not occur in text that is passed
between programs (The Unicode Standard, 23.7). Text that holds them all the same gets U+FFFD in their place, and the
encoder says so in the ledger.
"""

from __future__ import annotations

import re

ESCAPE = "\ufdd0"
"""Stands inside a control token's literal that came from a person: `<` ESCAPE `|im_end|>` is text, not control."""
OPEN, CLOSE = "\ufdd1", "\ufdd2"
"""Around what a `{% generation %}` block wrote."""
HEAD, TAIL = "\ufdd3", "\ufdd4"
"""Around a message's content while its place in the output is looked for."""
NAME, END = "\ufdd5", "\ufdd6"
"""Around a control token's number in the text that the tokenizer reads."""
BORDER = "\ufdd7"
"""Between a prompt and its answer: no token may span both, for at inference the prompt is encoded alone."""

NONCHARACTERS = re.compile("[\ufdd0-\ufdef]")


def without_noncharacters(text: str) -> str:
    return NONCHARACTERS.sub("\ufffd", text)
