"""The commands, from click's own objects: what each does, its options, what else may set them, its example."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import click

from scripts import environment
from scripts.pages import block, prose, table

# Programs and the module that has their commands.
PROGRAMS = {
    "alice": "fedssh.alice.cli", "bob": "fedssh.bob.cli", "charity": "fedssh.charity.cli", "fedssh": "fedssh.cli",
    "deploy": "fleet.cli",
}  # fmt: skip
MADE = "Made from the code by `scripts/reference`; exit codes stand [below the formats](formats.md#exit-codes)."
COLUMNS = ("option", "what it does", "default", "variable")
# Programs of scripts/, with what reads their command line or, where that is nothing, what says what they do.
SCRIPTS = {
    "quickstart": "scripts.demo.quickstart", "experiment": "experiments.cli", "compare": "scripts.compare",
    "benchmark": None, "test": None, "lint": None, "verify": None, "docs": None, "formats": None, "reference": None,
    "lock": None,
}  # fmt: skip


def page_of(program: str) -> Callable[[], str]:
    """What makes the page of a program."""
    return lambda: "\n\n".join(_program(program)) + "\n"


def group_of(program: str) -> click.Group:
    """All commands of a program; nothing heavy is loaded."""
    for value in vars(importlib.import_module(PROGRAMS[program])).values():
        if isinstance(value, click.Group) and value.name == program:
            return value
    raise AssertionError(f"{PROGRAMS[program]} has no group {program}")


def leaves(program: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of a program with its words, in the order in which `--help` lists them."""
    words = ("scripts/deploy",) if program == "deploy" else (program,)
    yield from _below(words, group_of(program))


def variable_of(command: click.Command, option: click.Parameter) -> tuple[str, ...]:
    """The environment variables that set an option, too."""
    if option.envvar:
        return (option.envvar,) if isinstance(option.envvar, str) else tuple(option.envvar)
    if command.callback is None or not inspect.isfunction(command.callback):
        return ()
    closed = inspect.getclosurevars(command.callback).nonlocals  # of `settings_options`
    return (f"{closed['prefix']}_{option.name}".upper(),) if option.name in closed.get("names", ()) else ()


def meaning_of(option: click.Option) -> tuple[str, str]:
    """What an option does, and its default, which stands in brackets at the end of its help."""
    help, bracket, default = (option.help or "").partition("  [")
    if bracket:
        default = default.removesuffix("]")
    elif option.required:
        default = "required"
    elif option.show_default:
        default = f"default: {option.default}"
    return help, re.sub(r"^default: (.*)", r"`\1`", default)


def scripts() -> str:
    """The page of the programs in scripts/."""
    parts = [
        "# scripts",
        "Programs of a checkout. Each makes its environment, `.venv`, from a lock file.",
    ]
    for name, module in SCRIPTS.items():
        parts.append(f"## scripts/{name}")
        parts += _argparse(module) if module else [_said(name)]
    return "\n\n".join([*parts, "Made from the code by `scripts/reference`."]) + "\n"


def _below(words: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    for name in command.list_commands(click.Context(command)):
        if name in command.commands:
            yield from _below((*words, name), command.commands[name])


def _program(program: str) -> Iterator[str]:
    group = group_of(program)
    name = "scripts/deploy" if program == "deploy" else program
    yield f"# {name}"
    yield prose(group.help or "")
    yield _examples(group.epilog)
    if program == "fedssh":
        yield (
            "`fedssh alice …`, `fedssh bob …` and `fedssh charity …` are "
            "[alice](alice.md), [bob](bob.md) and [charity](charity.md)."
        )
    yield f"Before the verb, as in `{name} --debug …`:"
    yield _options(group)
    for words, command in leaves(program):
        yield f"## {' '.join(words)}"
        context = click.Context(command, info_name=words[-1])
        yield block(" ".join([*words, *command.collect_usage_pieces(context)]))
        yield prose((command.help or "").partition("\f")[0])
        if any(isinstance(one, click.Option) for one in command.params):
            yield _options(command)
        yield _examples(command.epilog)
    yield MADE


def _options(command: click.Command) -> str:
    rows = []
    context = click.Context(command)
    for option in command.get_params(context):
        if not isinstance(option, click.Option) or option.hidden or "--help" in option.opts:
            continue
        flag = option.opts[-1] + (f"`, `{option.secondary_opts[-1]}" if option.secondary_opts else "")
        value = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
        rows.append((f"`{flag}{value}`", *map(_cell, meaning_of(option)), _named(variable_of(command, option))))
    return table(COLUMNS, rows)


def _cell(text: str) -> str:
    return prose(text) if text else ""


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _examples(epilog: str | None) -> str:
    """What stands below a help: its example, without the word and click's signs."""
    text = re.sub(r"^Example:\s*", "", re.sub(r"\x08\n", "", epilog or "").strip())
    return block("\n".join(line.strip() for line in text.splitlines()))


def _said(name: str) -> str:
    """What a program says of itself: the first comment of a shell script, or the docstring of its module."""
    script = (environment.ROOT / "scripts" / name).read_text()
    comment = re.match(r"#!.*\n((?:#.*\n)+)", script)
    if comment:
        lines = [line.removeprefix("#").removeprefix(" ") for line in comment[1].splitlines()]
        return prose("\n".join(f"  {line}" if line.startswith("  ") else line for line in lines))
    module = ast.parse((environment.ROOT / "scripts" / f"{name}.py").read_text())
    return prose(ast.get_docstring(module) or "")


def _argparse(module: str) -> Iterator[str]:
    """What a parser of the standard library has, in the same form."""
    parser = _parser(importlib.import_module(module).parse)
    yield prose(parser.description or "")
    rows = []
    for action in parser._actions:
        if action.help in (argparse.SUPPRESS, None) or "--help" in action.option_strings:
            continue
        value = action.metavar or "|".join(action.choices or ())
        help, _, default = str(action.help).partition(" [")
        words = [*action.option_strings[-1:], *([str(value)] if action.nargs != 0 and value else [])]
        rows.append((f"`{' '.join(words)}`", prose(help), prose(default.removesuffix("]"))))
    yield table(COLUMNS[:3], rows)
    if parser.epilog:
        yield block("\n".join(line.strip() for line in parser.epilog.splitlines() if line.startswith("  ")))


class _Caught(Exception):
    """The parser that a program made."""


def _parser(parse: Callable[[list[str]], Any]) -> argparse.ArgumentParser:
    """The parser that a function makes to read its command line."""

    def caught(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Caught(parser)

    original = argparse.ArgumentParser.parse_args
    with contextlib.ExitStack() as undo:
        undo.callback(setattr, argparse.ArgumentParser, "parse_args", original)
        argparse.ArgumentParser.parse_args = caught  # type: ignore[method-assign, assignment]
        try:
            parse([])
        except _Caught as found:
            parser: argparse.ArgumentParser = found.args[0]
            return parser
    raise AssertionError("the program reads no command line")
