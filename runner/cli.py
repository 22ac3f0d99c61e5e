"""The command `runner`."""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console

from images.contract.config import BACKENDS
from images.contract.job import ExitCode, Interrupted, JobError
from runner.gpus import choose_gpus
from runner.interrupt import ending_signals
from runner.launchers import Launcher, Slot, checkout_revision
from runner.launchers.docker import DockerLauncher
from runner.launchers.local import LocalLauncher
from runner.layout import Layout
from runner.outcome import Outcome
from runner.progress import Progress
from runner.schedule import Run, run_jobs
from runner.study import make_config, plan_jobs

LAUNCHERS: dict[str, Callable[[str | None], Launcher]] = {
    "docker": lambda memory: DockerLauncher(memory=memory),
    "local": lambda _memory: LocalLauncher(),
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="joulehouse")
def cli() -> None:
    """Run measured experiments and keep what they leave."""


def _checked_size(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[1-9][0-9]*[bkmg]?", value, re.IGNORECASE):
        raise click.BadParameter(f"'{value}' is not a size such as 512m or 8g.")
    return value


@cli.command()
@click.option("--backend", type=click.Choice(BACKENDS), required=True, help="Inference engine to measure.")
@click.option(
    "--model", help="Hub id, local folder (/..., ./...) or builtin:tiny-llama.  [default: builtin:tiny-llama]"
)
@click.option("--cycles", type=click.IntRange(min=1), default=3, show_default=True, help="Repetitions.")
@click.option(
    "--launcher", type=click.Choice(list(LAUNCHERS)), default="docker", show_default=True, help="Where cycles run."
)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where results go."
)
@click.option("--study", help="Name that groups the cycles.  [default: run-<time>]")
@click.option(
    "--set", "settings", multiple=True, metavar="FIELD.PATH=VALUE", help="Any configuration field; repeatable."
)
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=3600, show_default=True, help="Per job (s)."
)
@click.option(
    "--memory", metavar="SIZE", callback=_checked_size, help="Most memory of a container, as Docker writes it (8g)."
)
@click.option(
    "--gpus", type=click.Choice(["auto", "none"]), default="auto", show_default=True, help="auto: as many as it needs."
)
@click.option("--dry-run", is_flag=True, help="Check everything that can be checked, and run nothing.")
def run(
    backend: str,
    model: str | None,
    cycles: int,
    launcher: str,
    output: Path,
    study: str | None,
    settings: tuple[str, ...],
    timeout: float,
    memory: str | None,
    gpus: str,
    dry_run: bool,
) -> None:
    """Run one experiment's cycles and publish their directories.

    Exits with 0, or with the exit code of the first job that failed.
    """
    if memory is not None and launcher != "docker":
        raise click.UsageError("--memory bounds a container; it needs --launcher docker.")
    name = study or f"run-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    jobs = plan_jobs(make_config(backend, model, settings), name, cycles)
    layout = Layout(output)
    chosen = LAUNCHERS[launcher](memory)
    identity = chosen.check(jobs[0].config)
    slot = Slot(tuple(choose_gpus(jobs[0].config))) if gpus == "auto" else Slot()
    progress = Progress(Console(stderr=True))
    progress.note(f"study {name}, launcher {launcher}, on {', '.join(slot.gpu_uuids) or 'the CPU'}")
    if identity.git_revision != (here := checkout_revision()):
        progress.note(f"the image was built from revision {identity.git_revision}, this checkout is at {here}")
    if dry_run:
        progress.note(f"{cycles} cycles of {jobs[0].label} would go to {layout.output}")
        return
    outcomes: list[Outcome] = []
    with ending_signals() as stop:
        try:
            for outcome in run_jobs(jobs, Run(chosen, identity, layout, slot, timeout, progress, stop)):
                outcomes.append(outcome)
        finally:
            progress.stop()
            done = sum(outcome.failure is None for outcome in outcomes)
            click.echo(f"study {name}: {done} of {cycles} cycles in {layout.output}")
        if stop.is_set() and (len(outcomes) < cycles or outcomes[-1].failure is not None):
            raise Interrupted("interrupted; the running job was ended.", "Finished cycles are kept.")
    sys.exit(next((outcome.exit_code for outcome in outcomes if outcome.exit_code), 0))


def main() -> NoReturn:
    """Entry point: every error that a user can act on is one line and an exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(int(ExitCode.USAGE))
    except click.ClickException as error:
        click.echo(f"runner: {error.format_message().rstrip('.')}. See `runner run --help`.", err=True)
        sys.exit(int(ExitCode.USAGE))
    except JobError as error:
        click.echo(f"runner: {error}", err=True)
        sys.exit(int(error.exit_code))
    except BrokenPipeError:
        os._exit(int(ExitCode.INTERRUPTED))  # nobody reads what is said; an ordinary exit would say it again
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        click.echo(
            f"runner: cannot use{where} ({error.strerror}). Make room or correct permissions, run again.", err=True
        )
        sys.exit(int(ExitCode.USAGE))
    except (KeyboardInterrupt, click.Abort):
        click.echo("runner: interrupted.", err=True)
        sys.exit(int(ExitCode.INTERRUPTED))
    finally:
        _let_go_of_closed_pipes()
    sys.exit(0)


def _let_go_of_closed_pipes() -> None:
    """Else the interpreter's last flush would change the exit code of a run that went well to 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
