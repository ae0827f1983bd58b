"""Chat templates are code from strangers: they run in Jinja's sandbox with caps on size, steps, memory and time.

The environment speaks the dialect of `transformers` (trim_blocks, loop controls, `raise_exception`, `tojson` without
HTML escapes, `{% generation %}`) and differs in three ways: `strftime_now` always tells the same day, so that text is
reproducible; filters that no chat template needs are gone; and every loop, call and concatenation is counted.
Attacks of this kind: CVE-2024-34359, CVE-2026-5760 (no sandbox), CVE-2025-62426 (endless templates).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from danlu.core.errors import TemplateError
from danlu.data.marks import CLOSE, OPEN

MAX_TEMPLATE_CHARS = 262_144
MAX_OUTPUT_CHARS = 16_777_216
"""Also the most that any one value inside a template may grow to."""
MAX_STEPS = 200_000
MAX_SECONDS = 5.0

DAY = datetime(2024, 7, 26)
"""What `strftime_now` tells: the day that Llama 3.1's own template falls back to."""

_FILTERS = frozenset(
    "abs attr capitalize count d default dictsort e escape first float forceescape groupby indent int items join last "  # noqa: SIM905
    "length list lower map max min reject rejectattr replace reverse round safe select selectattr sort string sum "
    "title trim unique upper".split()
)
_GROWING = frozenset(("center", "expandtabs", "join", "ljust", "replace", "rjust", "zfill"))


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: the assistant's words, marked so that their place can be read off."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own interface

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return f"{OPEN}{caller()}{CLOSE}"


class Sandbox(ImmutableSandboxedEnvironment):
    """One template's environment. Not for several threads at once: the budget is this object's."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters = {name: value for name, value in self.filters.items() if name in _FILTERS}
        self.filters["tojson"] = _tojson
        self.filters["indent"] = self._indent
        self.filters["replace"] = self._replace
        self.filters["join"] = self._join
        self.filters["danlu_counted"] = self._counted
        self.filters["danlu_joined"] = self._joined
        self.globals = {
            "range": self.globals["range"],
            "dict": _TemplateDict(),
            "namespace": self.globals["namespace"],
            "raise_exception": _raise_exception,
            "strftime_now": DAY.strftime,
        }
        self._steps, self._chars, self._deadline = 0, 0, 0.0

    def render(self, template: Any, values: Mapping[str, Any]) -> str:
        """The template's text. TemplateError when it refuses, fails or overruns its caps."""
        self._steps, self._chars, self._deadline = 0, 0, time.monotonic() + MAX_SECONDS
        parts: list[str] = []
        length = 0
        try:
            for part in template.generate(dict(values)):
                length += len(part)
                if length > MAX_OUTPUT_CHARS:
                    raise TemplateError("template.too_much", limit=MAX_OUTPUT_CHARS)
                parts.append(part)
        except JinjaError as error:
            raise TemplateError("template.refused", problem=error.message or type(error).__name__) from error
        except (TypeError, ValueError, LookupError, ArithmeticError, RecursionError, AttributeError) as error:
            if isinstance(error, TemplateError):
                raise
            raise TemplateError("template.refused", problem=f"{type(error).__name__}: {error}") from error
        return "".join(parts)

    def compile_text(self, text: str, *, where: str = "") -> Any:
        """A template ready to `render`; TemplateError when it is too long or does not parse."""
        if len(text) > MAX_TEMPLATE_CHARS:
            raise TemplateError("template.too_long", where=where, given=len(text), limit=MAX_TEMPLATE_CHARS)
        try:
            return self.from_string(text)
        except (JinjaError, RecursionError) as error:
            raise TemplateError("template.syntax", where=where, problem=str(error)) from error

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Every `for` counts its rounds, every `~` measures its result."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "danlu_counted", [], [], None, None, lineno=loop.lineno)
        return _measured(tree)

    def _tick(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS or time.monotonic() > self._deadline:
            raise TemplateError("template.endless", steps=MAX_STEPS, seconds=MAX_SECONDS)

    def _counted(self, values: Iterable[Any]) -> Any:
        if not isinstance(values, Sized):
            return self._ticking(values)
        self._steps += len(values) + 1  # sized things stay as they are: `loop.length` needs it
        self._tick()
        return values

    def _ticking(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._tick()
            yield value

    def _grow(self, length: int) -> None:
        """Account for a text or list about to be made."""
        self._chars += length
        if length > MAX_OUTPUT_CHARS or self._chars > 16 * MAX_OUTPUT_CHARS:
            raise TemplateError("template.too_much", limit=MAX_OUTPUT_CHARS)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  Jinja's signature
        __self._tick()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and getattr(__obj, "__name__", "") in _GROWING:
            __self._check_method(owner, __obj.__name__, args)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` reaches templates through this door only; a width in the format would be an allocation."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and re.search(r"\{[^{}]*:[^{}]*(\d{5}|\{)", value.__self__):
            raise SecurityError("format too wide")
        return wrapped

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) if isinstance(side, str | list | tuple) else None for side in (left, right)]
        if operator == "+" and None not in sizes:
            self._grow(len(left) + len(right))
        elif operator == "*" and sizes != [None, None]:
            self._grow(
                (sizes[0] or 1) * (sizes[1] or 1) * max(int(side) for side in (left, right, 0) if isinstance(side, int))
            )
        elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            self._grow(MAX_OUTPUT_CHARS + 1 if bits > 4096 else 0)
        elif operator == "%" and isinstance(left, str) and re.search(r"%[^a-zA-Z%]*(\d{5}|\*)", left):
            raise SecurityError("format too wide")
        return super().call_binop(context, operator, left, right)

    def _check_method(self, text: str, method: str, args: tuple[Any, ...]) -> None:
        """Account for a text method's result before it is made."""
        if method == "replace" and len(args) >= 2:
            self._grow(text.count(str(args[0])) * len(str(args[1])) + len(text))
        elif method == "join" and args and hasattr(args[0], "__len__"):
            texts: list[Any] = list(args[0])
            self._grow(len(text) * len(texts) + sum(len(str(item)) for item in texts))
        else:
            self._grow(max((abs(arg) for arg in args if isinstance(arg, int)), default=0) * max(text.count("\t"), 1))

    def _replace(self, text: Any, old: str, new: str, count: int | None = None) -> str:
        self._check_method(str(text), "replace", (old, new))
        return str(text).replace(str(old), str(new), -1 if count is None else count)

    def _indent(self, text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        self._grow((str(text).count("\n") + 1) * (width if isinstance(width, int) else len(width)) + len(str(text)))
        return do_indent(str(text), width, first, blank)

    def _join(self, values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
        texts = [str(self.getattr(value, attribute) if attribute else value) for value in values]
        self._check_method(str(separator), "join", (texts,))
        return str(separator).join(texts)

    def _joined(self, values: list[Any]) -> str:
        texts = [str(value) for value in values]
        self._grow(sum(map(len, texts)))
        return "".join(texts)


def _measured(tree: nodes.Template) -> nodes.Template:
    for parent in [tree, *tree.find_all(nodes.Node)]:
        for field, value in parent.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(parent, field, _joining(value))
            elif isinstance(value, list):
                value[:] = [_joining(item) if isinstance(item, nodes.Concat) else item for item in value]
    return tree


def _joining(node: nodes.Concat) -> nodes.Filter:
    pieces = nodes.List(node.nodes, lineno=node.lineno)
    return nodes.Filter(pieces, "danlu_joined", [], [], None, None, lineno=node.lineno, environment=node.environment)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int) and indent > 64:
        raise SecurityError("indent too large")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise JinjaError(message)


class _TemplateDict:
    """`dict(...)` without the type's attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)
