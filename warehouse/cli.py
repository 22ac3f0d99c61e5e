"""The command ``warehouse``. A subcommand is imported when it runs, so that help is there at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from warehouse.calls import StillRunning
from warehouse.commands.standard_output import unless_nobody_reads
from warehouse.errors import WarehouseError
from warehouse.plain_text import clipped

COMMANDS = {
    "ingest": "Take result directories into the database.",
    "campaign": "Show means with confidence intervals over cycles.",
    "compare": "Say by how much B differs from A, and what could have been seen.",
    "sql": "Ask the database a question in SQL.",
    "schema": "Show tables, views and their columns; upgrade an old database.",
    "export": "Write tables as CSV, JSON or a Parquet lake.",
    "report": "Write everything measured as one page for a browser.",
    "results": "Look at, finish and delete single results in the results folder.",
    "aggregate": "Make results of what incomplete experiments left in raw/.",
}
"""Subcommands, each in the module of its name in warehouse.commands, as a click command called `command`."""


_INTERRUPTED = "interrupted; what was finished is kept."
_LONGEST_LINE = 2000


class _Subcommands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"warehouse.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Subcommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="joulehouse")
def cli() -> None:
    """Results of joulehouse in a DuckDB database: ingest them, ask them, compare them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every mistake becomes one line on stderr.

    Args:
        arguments: by default those of the process, which ends here if a query cannot be stopped.

    Returns:
        The exit code: 0 done, 1 failed (or a gate that is not passed), 2 asked for wrongly, 3 a strict gate undecided.
    """
    try:
        code = 0
        with unless_nobody_reads():
            code = cli.main(args=arguments, prog_name="warehouse", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "warehouse"
        return _fail(f"{error.format_message().rstrip('.')}. See `{where} --help`.", error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except StillRunning as error:
        code = _fail(str(error), error.exit_code)
        if arguments is None:
            os._exit(code)  # Python's own end would tear DuckDB down while it works
        return code
    except WarehouseError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        return _fail(f"{error.filename or 'a file'} cannot be used ({error.strerror}). Correct its permissions.", 1)
    except click.Abort:
        return _fail(_INTERRUPTED, 130)
    except RuntimeError as error:
        if str(error) != "Query interrupted":  # DuckDB's word for Ctrl-C
            raise
        return _fail(_INTERRUPTED, 130)


def _fail(message: str, exit_code: int) -> int:
    click.echo(f"warehouse: {clipped(' '.join(message.split()), _LONGEST_LINE)}", err=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
