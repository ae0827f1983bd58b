"""How commands introduce themselves: `-h` in the reader's language, and what is said of words that fit no command.

`App` makes a group whose commands do so. Parsing is typer's; only its English frame is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from danlu.cli.habits import COMMANDS
from danlu.cli.lines import described, terminal_cells, wrapped
from danlu.cli.options import spoken
from danlu.core.errors import RecipeError
from danlu.core.messages import say
from danlu.core.shelf import nearest

Verb = TypeVar("Verb", bound=Callable[..., Any])

UsageError: Any = typer.BadParameter.__mro__[1]
"""Root of what typer says of a command line; it hands out this one leaf."""


class Command(TyperCommand):
    """One verb."""

    allow_extra_args = True  # words too many are told below, in the reader's language

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            rest = super().parse_args(ctx, args)
        except UsageError as error:
            error.ctx = error.ctx or ctx  # an option without its value does not know whose it is
            raise
        if rest and not ctx.resilient_parsing:
            raise RecipeError("help.too_many", given=" ".join(rest), command=ctx.command_path)
        return rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_page(self, ctx, []))


class Group(TyperGroup):
    """Verbs that belong together."""

    chapters: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Title (`help.chapter_…`) to its commands in reading order; none where a group is short."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args[0] == "help":
            args = [*args[1:], "-h"]
            if len(args) == 1:
                typer.echo(ctx.get_help())
                raise typer.Exit
        if args[0] not in self.commands and not args[0].startswith("-"):
            habit = COMMANDS.get(args[0])
            close = habit if habit in self.commands else nearest(args[0], self.commands)
            meant = close and f"{ctx.command_path} {close}"
            raise RecipeError("help.no_command", given=args[0], nearest=meant, command=ctx.command_path)
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        chapters = self.chapters or {"commands": list(self.commands)}
        sections = [
            (say(f"help.chapter_{title}"), [(name, self.commands[name].help or "") for name in names])
            for title, names in chapters.items()
        ]
        formatter.write(_page(self, ctx, sections))


class App(typer.Typer):
    """A group of verbs; its help is ours."""

    def __init__(self, *, cls: type[Group] = Group) -> None:
        super().__init__(
            cls=cls,
            no_args_is_help=True,
            add_completion=False,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
        )

    def command(  # type: ignore[override]  # the two words of typer's many that are used here
        self, name: str | None = None, *, help: str
    ) -> Callable[[Verb], Verb]:
        """A verb takes a `voice`; the command line has its options."""
        register = super().command(name, cls=Command, help=help)

        def add(verb: Verb) -> Verb:
            register(spoken(verb))
            return verb

        return add


def _page(command: Any, ctx: Any, sections: list[tuple[str, list[tuple[str, str]]]]) -> str:
    width = terminal_cells()
    params = [param for param in command.get_params(ctx) if not param.hidden]
    arguments = [param for param in params if param.param_type_name == "argument"]
    options = [param for param in params if param.param_type_name == "option"]
    told = [
        (say("help.arguments"), [(_metavar(param), param.help or "") for param in arguments]),
        *sections,
        (say("help.options"), [(_names(param), _sentence(param)) for param in options]),
    ]
    first, *more = wrapped(usage(ctx), width - 4)
    lines = [
        first,
        *(f"    {line}" for line in more),
        "",
        *(f"  {line}" for line in wrapped(command.help or "", width - 2)),
        "",
    ]
    for title, rows in told:
        if rows:
            lines += [title, described(rows, width), ""]
    return "\n".join(lines)


def usage(ctx: Any) -> str:
    """`Usage: danlu run RECIPE [a.b=c]... [OPTIONS]`."""
    params = ctx.command.get_params(ctx)
    words = [_in_usage(param) for param in params if param.param_type_name == "argument"]
    if isinstance(ctx.command, TyperGroup):
        words.append(say("help.word_command"))
    return say("help.usage", line=" ".join([ctx.command_path, *words, say("help.word_options")]))


def _metavar(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _in_usage(param: Any) -> str:
    shown = _metavar(param)
    if param.nargs != 1 and not shown.endswith("..."):
        shown += "..."
    return shown if param.required or shown.startswith("[") else f"[{shown}]"


def _names(param: Any) -> str:
    names = ", ".join(sorted(param.opts, key=len))
    if param.secondary_opts:
        names += " / " + ", ".join(param.secondary_opts)
    return names if param.is_flag else f"{names} {_metavar(param)}"


def _sentence(param: Any) -> str:
    if "--help" in param.opts:
        return say("help.help")
    told = [param.help or ""]
    if param.required:
        told.append(say("help.required"))
    elif not param.is_flag and param.default not in (None, "") and not callable(param.default):
        shown = " ".join(map(str, param.default)) if isinstance(param.default, tuple) else param.default
        told.append(say("help.default", value=shown))
    return "".join(told)
