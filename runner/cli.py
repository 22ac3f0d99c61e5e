"""The command `runner`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from images.contract.config import BACKENDS
from images.contract.job import ExitCode, JobError
from images.contract.study import STUDY_FILE
from runner.cluster.render import describe_jobs, render_rbac, render_study, rules_of
from runner.execute import require_room
from runner.gpu.leases import lease_folder
from runner.gpu.settle import check_power_limits
from runner.gpu.slots import forget_dead
from runner.host import Launchers, open_host, study_gpus
from runner.hub.models import prefetch
from runner.interrupt import END, FINISH, ending_signals
from runner.launchers import Identity, checkout_revision
from runner.layout import Layout, slug
from runner.options import RESULTS, Asked, allow_tag_option, asked_study, output_named, output_of, study_options
from runner.recovery import clear
from runner.schedule import Summary, is_cleared, run_study
from runner.studies.record import check, known
from runner.studies.settings import LAUNCHER_NAMES, LauncherName
from runner.studies.study import Study
from runner.studies.study_document import study_schema
from runner.studies.study_file import StudyInvalid, load_study
from runner.view import doctor as health
from runner.view import status as overview
from runner.view.preview import describe_plan
from runner.view.progress import Progress, StandardError

_IN_CLUSTER = "runner.cluster.command"
"""Imported late: the Kubernetes client takes half a second, which nobody else should wait."""
_LOOK_EVERY_S = 0.2
_PATIENCE_S = 3.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="joulehouse")
def cli() -> None:
    """Run measured experiments and keep what they leave."""


@cli.command()
@study_options
@click.option("--extend", is_flag=True, help="The study file has more experiments or cycles than when it ran.")
@click.option("--dry-run", is_flag=True, help="Check everything that can be checked, and run nothing.")
@allow_tag_option
def run(extend: bool, dry_run: bool, allow_tag: bool, **options: Any) -> None:
    """Run a study file, or one experiment (--backend), and publish a directory for every cycle.

    Run it again and it goes on where it was. The first Ctrl-C lets running jobs finish, the second ends them.
    Exits with 0, or with the exit code of what ended the study, or of the first job that failed.
    """
    asked = Asked(**options)
    study = asked_study(asked)
    layout = Layout(output_of(asked, study))
    if study.launcher.name == "kubernetes":
        if dry_run:
            click.echo("\n".join(describe_jobs(study, allow_tag=allow_tag)))
            return
        command = import_module(_IN_CLUSTER)
        _end_with(command.run(study, layout, extend=extend, allow_tag=allow_tag), study, layout.output)
    host = open_host(study)
    if not dry_run:
        layout.prepare()
    console = StandardError()
    progress = Progress(console)
    where = ", ".join(host.gpu_uuids) if len(host.gpu_uuids) < 3 else f"{len(host.gpu_uuids)} GPUs"
    progress.note(f"study {study.name}, launcher {host.launcher.name}, on {where or 'the CPU'}")
    _compare_revisions(host.identities.values(), progress)
    if dry_run:
        check(layout, study, extend, on_gpus=bool(host.gpu_uuids))
        check_power_limits(host.gpu_uuids, study.launcher.power_limit_w)
        require_room(layout)
        for line in describe_plan(study, len(host.gpu_uuids), layout.output):
            click.echo(line)
        return
    with ending_signals() as stop:
        try:
            summary = run_study(
                study,
                layout,
                host,
                progress,
                stop,
                extend=extend,
                before_jobs=lambda: prefetch(
                    [one.config for one in study.experiments],
                    progress.note,
                    stopped=lambda: stop.drain,
                    console=console,
                ),
            )
        finally:
            progress.stop()
    _end_with(summary, study, layout.output)


def _end_with(summary: Summary, study: Study, output: Path) -> NoReturn:
    """Say what there is now, and exit with what that means."""
    with suppress(OSError):  # a terminal that is gone changes nothing about what was measured
        click.echo(_describe(summary, study, output))
    if summary.problem is not None:
        raise summary.problem
    sys.exit(next((outcome.exit_code for outcome in summary.outcomes if outcome.exit_code), 0))


@cli.command()
@study_options
@click.option("--all", "everything", is_flag=True, help="Every block, however many there are.")
def plan(everything: bool, **options: Any) -> None:
    """Print what `runner run` would run here: experiments, blocks, and how many GPUs they can use, and why."""
    asked = Asked(**options)
    study = asked_study(asked)
    if study.launcher.name == "kubernetes":
        for line in describe_jobs(study, allow_tag=True):
            click.echo(line)
        return
    n_gpus = len(study_gpus(study))
    for line in describe_plan(study, n_gpus, output_of(asked, study), everything=everything):
        click.echo(line)
    try:
        check_power_limits(open_host(study).gpu_uuids, study.launcher.power_limit_w)
    except JobError as error:
        click.echo(f"would be refused: {error}")


@cli.command()
@study_options
@allow_tag_option
@click.option("--rbac", is_flag=True, help="Print the Role that `runner run --launcher kubernetes` needs instead.")
def render(allow_tag: bool, rbac: bool, **options: Any) -> None:
    """Print a study as Kubernetes manifests, for kubectl or GitOps; no cluster is asked."""
    asked = Asked(**options)
    if asked.launcher not in (None, "kubernetes"):
        raise click.UsageError(f"there is nothing to render for --launcher {asked.launcher}; it is for kubernetes")
    if rbac and asked.study_file is None and asked.backend is None:
        click.echo(render_rbac(None), nl=False)
        return
    study = asked_study(asked)
    kubernetes = study.kubernetes
    text = render_rbac(kubernetes.namespace, rules_of(kubernetes)) if rbac else render_study(study, allow_tag=allow_tag)
    click.echo(text, nl=False)


@cli.command()
@click.argument("where", metavar="STUDY.yaml|DIRECTORY", type=click.Path(path_type=Path), default="results")
@click.option("--json", "json_wanted", is_flag=True, help="One JSON object.")
def status(where: Path, json_wanted: bool) -> None:
    """Show what a study has, what runs, and what is left; from any terminal, also while no runner works on it."""
    study = load_study(where) if where.is_file() and not json_wanted else None
    if study is not None and study.launcher.name == "kubernetes":
        for line in import_module(_IN_CLUSTER).status(study):
            click.echo(line)
    found = overview.collect(output_named(where), where if where.is_file() else None)
    if json_wanted:
        click.echo(overview.as_json(found))
    else:
        overview.show(found, Console())


@cli.command()
@click.argument("where", metavar="STUDY.yaml|DIRECTORY", type=click.Path(path_type=Path))
@click.option("--now", is_flag=True, help="End running jobs instead of letting them finish.")
@click.option("--study", "name", help="Name of the study, where the directory has none of its own.")
def stop(where: Path, now: bool, name: str | None) -> None:
    """End the runner of a study, and wait until it has ended; without one, end what a killed runner left."""
    output = output_named(where)
    layout = Layout(output)
    study = load_study(where) if where.is_file() else None
    followed = study is not None and (known_runner := layout.runner(study.name)) is not None and known_runner.alive
    if study is not None and study.launcher.name == "kubernetes" and not followed:
        click.echo(import_module(_IN_CLUSTER).stop(study, now=now))
        return
    if not output.is_dir():
        raise click.UsageError(f"there is no directory {output}")
    name = name or _study_to_stop(layout)
    runner = layout.runner(name)
    if runner is not None and not runner.is_here:
        raise click.UsageError(f"the runner (pid {runner.pid}) is on {runner.host}; stop it there")
    if runner is not None and runner.alive:
        runner.send(END if now else FINISH)
        click.echo(f"runner (pid {runner.pid}) asked to {'end its jobs' if now else 'finish what runs'}; waiting")
        while runner.alive:
            time.sleep(_LOOK_EVERY_S)
        return
    with layout.lock(name, patience_s=_PATIENCE_S) as held:
        if not held:
            raise click.UsageError(f"a runner has just begun to work on study '{name}'; stop it again")
        clear(slug(name), layout, Launchers(), click.echo)
        forget_dead(lease_folder(), lambda record: is_cleared(record, layout))
    click.echo(f"no runner works on study '{name}'; nothing of it runs")


def _study_to_stop(layout: Layout) -> str:
    """That of the directory; where it has none of its own, as after `make run`, those there are must be named."""
    if (layout.output / STUDY_FILE).exists():
        return known(layout.output).name
    if names := layout.at_work():
        given = " or ".join(f"--study {one}" for one in names)
        raise click.UsageError(f"{layout.output} has no study file of its own; say which study to stop with {given}")
    raise click.UsageError(
        f"there is nothing to stop in {layout.output}: no runner works there, and none left anything"
    )


@cli.command()
@click.argument("where", metavar="[STUDY.yaml]", type=click.Path(path_type=Path), required=False)
@click.option("--backend", type=click.Choice(BACKENDS), help="Without a study file: the engine that must be ready.")
@click.option("--launcher", type=click.Choice(LAUNCHER_NAMES), help="Without a study file: where jobs would run.")
@click.option("--output", type=click.Path(path_type=Path), help="Where results would go.  [default: as runner run]")
def doctor(where: Path | None, backend: str | None, launcher: LauncherName | None, output: Path | None) -> None:
    """Check what a study needs here - Docker, GPUs, images, disk, models - and say what to do about the rest."""
    asked = Asked(study_file=where, launcher=launcher, output=output)
    study = None if where is None else asked_study(asked)
    place = output or (RESULTS if study is None else output_of(asked, study))
    if launcher == "kubernetes" and study is None:
        raise click.UsageError("name the study file: it says which cluster, images and place of results are meant")
    if study is not None and study.launcher.name == "kubernetes":
        checks = [*import_module(_IN_CLUSTER).doctor(study), health.output_check(place)]
    else:
        checks = health.run_checks(study, place, backend=backend, launcher=launcher)
    if not health.show(checks, Console()):
        sys.exit(int(ExitCode.LAUNCHER))


@cli.command()
def schema() -> None:
    """Print the JSON Schema of study files, for editors."""
    click.echo(json.dumps(study_schema(), indent=1))


def main() -> NoReturn:
    """Entry point: every error that a user can act on is one line and an exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(int(ExitCode.USAGE))
    except click.ClickException as error:
        click.echo(f"runner: {error.format_message().rstrip('.')}. See `runner --help`.", err=True)
        sys.exit(int(ExitCode.USAGE))
    except StudyInvalid as error:
        for problem in error.problems if len(error.problems) > 1 else ():
            click.echo(problem, err=True)
        click.echo(f"runner: {error}", err=True)
        sys.exit(int(error.exit_code))
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


def _describe(summary: Summary, study: Study, output: Path) -> str:
    text = f"study {study.name}: {summary.n_results} of {summary.n_wanted} cycles in {output}"
    if summary.adaptive is not None:
        text += f"; adaptive: {summary.adaptive.outcome.replace('_', ' ')}"
    return text


def _compare_revisions(identities: Iterable[Identity], progress: Progress) -> None:
    here = checkout_revision()
    for there in sorted({str(identity.git_revision) for identity in identities} - {str(here)}):
        progress.note(f"an image was built from revision {there}, this checkout is at {here}")


def _let_go_of_closed_pipes() -> None:
    """Else the interpreter's last flush would change the exit code of a run that went well to 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
