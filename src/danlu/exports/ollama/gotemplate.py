"""Turns in the language of Go's `text/template`, as Ollama runs it: values .Messages with .Role and .Content.

Whitespace is never left to the layout: all text stands in string literals, and every action eats what is around it.
Go's templates have no function that trims; a loop over at most as many steps as there are bytes does, which needs the
range over whole numbers of Go 1.24. What Python's `strip`, and so Jinja's `trim`, takes for whitespace is in SPACES.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from danlu.exports.ollama.turns import Role, Turns

SPACES = {
    1: "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f ",
    2: "\x85\xa0",
    3: "\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000",
}  # by the number of bytes in UTF-8


def write_go(turns: Turns) -> str:
    """The template. A last turn of the assistant is left open, as Ollama means it: to be continued."""
    lines = [
        '{{- $before := "" }}',
        "{{- range $i, $m := .Messages }}",
        "{{- $rest := slice $.Messages $i }}",
        '{{- $next := "" }}',
        "{{- if gt (len $rest) 1 }}{{ $next = (index $rest 1).Role }}{{ end }}",
        "{{- $s := .Content }}",
    ]
    for places, steps in ((turns.trimmed_before, _front()), (turns.trimmed_after, _back())):
        if places:
            known = " ".join(_text(f"{before} {role}") for before, role in sorted(places))
            lines += [f'{{{{- if eq (print $before " " .Role) {known} }}}}', *steps, "{{- end }}"]
    lines.append("{{- $before = .Role }}")
    keyword = "if"
    for role, head in turns.heads.items():
        gaps = {after: gap for (before, after), gap in turns.gaps.items() if before == role}
        lines.append(f"{{{{- {keyword} eq .Role {_text(role)} }}}}")
        lines += [f"{{{{- if eq $i 0 }}}}{_action(head)}{{{{ end }}}}", "{{- $s }}"]
        lines += _after(gaps, turns.tails.get(role, ""))
        keyword = "else if"
    gaps = {after: gap for (before, after), gap in turns.gaps.items() if before == "assistant"}
    lines += ['{{- else if eq .Role "assistant" }}', "{{- $s }}", *_after(gaps, ""), "{{- end }}", "{{- end }}"]
    return "\n".join(line for line in lines if line)


def _after(gaps: Mapping[Role, str], tail: str) -> list[str]:
    """What stands after a turn's words, by what follows."""
    lines, keyword = [], "if"
    for following, gap in gaps.items():
        lines.append(f"{{{{- {keyword} eq $next {_text(following)} }}}}{_action(gap)}")
        keyword = "else if"
    if tail:
        lines.append(f'{{{{- {keyword} eq $next "" }}}}{_action(tail)}')
    return [*lines, "{{- end }}"] if lines else []


def _action(text: str) -> str:
    return f"{{{{ {_text(text)} }}}}" if text else ""


def _text(text: str) -> str:
    """A Go string literal; JSON's escapes are Go's too, and no three quotes stand side by side in one. What does not
    print (a full-width space) is escaped as well: Ollama reads a Modelfile without it."""
    return "".join(char if char.isprintable() else _escaped(char) for char in json.dumps(text, ensure_ascii=False))


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _front() -> list[str]:
    """Whitespace off the front of $s, a character a step."""
    return _loop([(size, f"(slice $s 0 {size})", f"slice $s {size}") for size in SPACES])


def _back() -> list[str]:
    """Off its end. `len (slice $s 1)` is one less than `len $s`: there is no subtraction either."""
    ends = {size: f"(len (slice $s {size}))" for size in SPACES}
    return _loop([(size, f"(slice $s {end})", f"slice $s 0 {end}") for size, end in ends.items()])


def _loop(steps: Sequence[tuple[int, str, str]]) -> list[str]:
    """(bytes of a character, the character, what is left without it) of each length there is."""
    lines, keyword = ["{{- range len $s }}"], "if"
    for size, character, rest in steps:
        known = " ".join(_text(space) for space in SPACES[size])
        is_space = f"and (ge (len $s) {size}) (eq {character} {known})"
        lines.append(f"{{{{- {keyword} {is_space} }}}}{{{{ $s = {rest} }}}}")
        keyword = "else if"
    return [*lines, "{{- else }}{{ break }}{{ end }}", "{{- end }}"]
