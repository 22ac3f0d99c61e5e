"""docs/commands.md: every command and option, from click."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from runner.cli import cli as runner_cli
from tests.docs.generated import joined, row, table
from warehouse.cli import cli as warehouse_cli

PROGRAMS = {"runner": runner_cli, "warehouse": warehouse_cli}
_HEAD = """# Commands

Everything that `runner` and `warehouse` take, written from the code; `--help` says the same. `make install` puts both
into `.venv/bin`. What their exit codes mean is in [troubleshooting.md](troubleshooting.md).
"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its whole name."""
    for program, group in PROGRAMS.items():
        yield from _below(program, group)


def _below(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command, info_name=name)
    for part in command.list_commands(context):
        inner = command.get_command(context, part)
        assert inner is not None
        yield from _below(f"{name} {part}", inner)


def command_page() -> str:
    lines = [_HEAD]
    for name, command in commands():
        context = click.Context(command, info_name=name)
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        lines += [f"## {name}", "", "```", usage, "```", "", *_help(command)]
        rows = [row(f"`{_names(option)}`", _meaning(option, context)) for option in _options(command)]
        lines += table(("option", "meaning"), rows) if rows else []
    return joined(lines)


def _options(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option) and not one.hidden]


def _help(command: click.Command) -> Iterator[str]:
    """Paragraphs as they are filled; what click is told to leave as it is (\\b) becomes a block."""
    for paragraph in (command.help or "").split("\n\n"):
        if paragraph.lstrip().startswith("\b"):
            yield from ("```", *paragraph.strip("\b\n ").splitlines(), "```", "")
        else:
            yield from (" ".join(paragraph.split()).replace("<", "&lt;"), "")


def _names(option: click.Option) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    return f"{names} {option.metavar or _type(option)}"


def _type(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return option.type.name.upper().replace(" RANGE", "")


def _meaning(option: click.Option, context: click.Context) -> str:
    text = re.sub(r"\s*\[default: (.+)\]$", r" Default: \1.", option.help or "")
    default = option.get_default(context, call=False)
    if option.show_default and default is not None and not option.is_flag and "Default:" not in text:
        text += f" Default: {option.show_default if isinstance(option.show_default, str) else default}."
    if option.envvar:
        text += f" Or by the variable {option.envvar}."
    return text + (" Repeatable." if option.multiple and "epeatable" not in text else "")
