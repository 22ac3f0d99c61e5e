"""``warehouse results``: what is in the results folder, without a database."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from images.contract import files
from images.contract.failure import JobFailure
from images.contract.files import UnreadableResult
from images.contract.leftover import describe, load_leftover
from images.contract.parts import RawProcessResult
from images.contract.process import completed
from images.contract.result import ExperimentResult
from warehouse.commands import aggregate
from warehouse.commands.aggregate import results_folder
from warehouse.commands.options import File
from warehouse.errors import WarehouseError
from warehouse.intake.records import Broken, Record
from warehouse.intake.rows import Row
from warehouse.numerals import counted
from warehouse.plain_text import LONGEST_NAME, clipped, printable
from warehouse.repository import FileSystemRepository, is_id

NOT_MEASURED = "-"
_LONGEST_LINE = 2000
_MOST_LINES = 100
"""Of warnings or of a log, where --json has them all."""
_COLUMNS = "{:<28}  {:>15}  {:>15}  {}"


@click.group("results")
def command() -> None:
    """Look at, finish and delete single results in the results folder."""


command.add_command(aggregate.command)


@command.command("list")
@click.argument("named", metavar="[DIR]", type=File(), required=False)
@click.option("--all", "everything", is_flag=True, help="Failures and leftover raw results, too.")
@results_folder
def list_results(named: Path | None, everything: bool, folder: Path) -> int:
    """List the finished results in DIR, the results folder, oldest first.

    With --all also failures with their reason, and raw results that wait to be aggregated with what is missing
    (`warehouse aggregate`). What ingest would not take is told of below, and the exit code is then 1.
    """
    folder = named or folder
    repository = FileSystemRepository(folder)
    contents = repository.scan()
    click.echo(_COLUMNS.format("experiment_id", "J/output token", "output tokens/s", "state"))
    unread = list(contents.problems)
    n_cut = 0
    for one in contents.finished:
        if one.failed and not everything:
            continue
        found = repository.judged(one)
        if isinstance(found, Broken):
            unread.append(found.reason)
        else:
            n_cut += _print_line(found.experiment_id, *_figures_and_state(found), one.path, folder)
    if everything:
        for path in contents.raw:
            n_cut += _print_line(path.name, "", "", f"raw: {_lacks(path)}", path, folder)
    if n_cut:
        click.echo(f"cut in the middle: {n_cut}; `warehouse results show ID --json` has them whole", err=True)
    n_failed = sum(one.failed for one in contents.finished)
    if not everything and (n_failed or contents.raw):
        click.echo(f"not shown: {n_failed} failed, {len(contents.raw)} raw; --all shows them", err=True)
    for problem in unread:
        click.echo(f"warehouse: {clipped(problem, _LONGEST_LINE)}", err=True)
    return 1 if unread else 0


@command.command("show")
@click.argument("experiment_id", metavar="ID")
@click.option("--raw", is_flag=True, help="Its processes, each for itself.")
@click.option("--json", "as_json", is_flag=True, help="The whole result, or with --raw the processes, as JSON.")
@results_folder
def show(experiment_id: str, raw: bool, as_json: bool, folder: Path) -> None:
    """Show one result, failure, or leftover raw results."""
    repository = FileSystemRepository(folder)
    try:
        lines = _raw_lines if raw else _lines
        n_cut = 0
        for line in lines(repository, experiment_id, as_json):
            n_cut += len(line) > _LONGEST_LINE and not as_json
            click.echo(line if as_json else clipped(line, _LONGEST_LINE))
        if n_cut:
            click.echo(f"cut in the middle: {counted(n_cut, 'line')}; --json has all", err=True)
    except UnreadableResult as error:
        raise WarehouseError(f"{error}.") from None


@command.command("delete")
@click.argument("experiment_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@results_folder
def delete(experiment_id: str, yes: bool, folder: Path) -> int:
    """Delete an experiment's result, failure and raw results from the results folder.

    The database keeps what it has taken in until `warehouse ingest DIR --prune`.
    """
    repository = FileSystemRepository(folder)
    everything = repository.everything_of(experiment_id)
    if not everything:
        raise repository.unknown(experiment_id)
    if not yes:
        for path in everything:
            click.echo(printable(path))
        if not sys.stdin.isatty():
            raise WarehouseError("nothing was deleted: nobody can be asked here. Add --yes.", 2)
        if not click.confirm("Delete for good?"):
            click.echo("nothing was deleted")
            return 1
    for path in repository.delete_experiment(experiment_id):
        click.echo(f"deleted {printable(path)}")
    click.echo(f"a database that has it keeps it until `warehouse ingest {printable(folder)} --prune`")
    return 0


def _print_line(experiment_id: str, energy: str, speed: str, state: str, path: Path, folder: Path) -> bool:
    """Whether something of it had to be cut."""
    where = str(path.relative_to(folder))
    line = f"{_COLUMNS.format(clipped(experiment_id), energy, speed, clipped(state))}  {clipped(where)}"
    if not is_id(experiment_id):
        line += f"  (id is not usable; remove {printable(path)} by hand)"
    click.echo(line)
    return any(len(text) > LONGEST_NAME for text in (experiment_id, state, where))


def _figures_and_state(record: Record) -> tuple[str, str, str]:
    if record.kind == "failure":
        (failure,) = record.rows["failures"]
        return "", "", f"failed: {failure['error_class']} ({failure['exit_code']})"
    (row,) = record.rows["experiments"]
    return _figure(row["energy_per_output_token_j"]), _figure(row["output_tokens_per_second"]), _state(row)


def _state(data: Row) -> str:
    valid = data["measurement_valid"]
    if valid is False:
        reasons = data["invalid_reasons"]
        return f"invalid: {', '.join(map(str, reasons))}" if isinstance(reasons, list) else "invalid"
    return "valid" if valid else "validity unknown"


def _lacks(folder: Path) -> str:
    try:
        leftover = load_leftover(folder)
    except UnreadableResult as error:
        return str(error)
    report = leftover.report()
    return "complete" if report.is_complete else describe(report, leftover.damaged)


def _figure(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, int | float) and not isinstance(value, bool) else NOT_MEASURED


def _lines(repository: FileSystemRepository, experiment_id: str, as_json: bool) -> Iterator[str]:
    directory = repository.result_directory(experiment_id)
    if directory is not None:
        result, notes = _loaded(repository, directory)
        if as_json:
            yield json.dumps(files.read_json(directory / files.RESULT_FILE), indent=1)
            return
        yield from _result_lines(result, directory)
        for note in notes:
            click.echo(f"warehouse: {clipped(note, _LONGEST_LINE)}", err=True)
        return
    failures = repository.failure_directories(experiment_id)
    folder = repository.raw_folder(experiment_id)
    if not failures and folder is None:
        raise repository.unknown(experiment_id)
    if as_json and failures:
        yield json.dumps(files.read_json(failures[0] / files.FAILURE_FILE), indent=1)
        return
    for path in failures:
        yield from _failure_lines(path)
    if folder is not None and not as_json:
        yield f"raw         {folder}"
        yield f"            {_lacks(folder)}"
        yield f"            `warehouse aggregate {experiment_id}` makes the result of it"
    elif folder is not None:
        yield from _raw_lines(repository, experiment_id, as_json)


def _raw_lines(repository: FileSystemRepository, experiment_id: str, as_json: bool) -> Iterator[str]:
    """Processes of the raw results; where they are gone, as the result keeps them."""
    folder = repository.raw_folder(experiment_id)
    if folder is not None:
        processes = repository.load_all_raw(experiment_id)
    elif (directory := repository.result_directory(experiment_id)) is not None:
        processes = _loaded(repository, directory)[0].process_results
    elif repository.failure_directories(experiment_id):
        processes = []
    else:
        raise repository.unknown(experiment_id)
    if as_json:
        yield json.dumps([one.model_dump(mode="json") for one in processes], indent=1)
        return
    for one in processes:
        yield from _process_lines(one)
    if folder is not None:
        yield f"{len(completed(folder))} completed: {_lacks(folder)}"


def _loaded(repository: FileSystemRepository, directory: Path) -> tuple[ExperimentResult, list[str]]:
    """The result, and what its reader should know of the file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = repository.load(directory)
    return result, [str(one.message) for one in caught]


def _result_lines(result: ExperimentResult, directory: Path) -> Iterator[str]:
    config, environment, latency = result.effective_config, result.environment_snapshot, result.latency_stats
    gpus = (environment and environment.gpu_names) or []
    yield f"{result.experiment_id}  {_state(result.model_dump(include={'measurement_valid', 'invalid_reasons'}))}"
    yield f"directory   {directory}"
    yield (
        f"experiment  {result.experiment or config.get('model') or NOT_MEASURED}, backend {result.backend}, "
        f"config {result.measurement_config_hash[:8]}, study {_or_none(result.study)}, cycle {_or_none(result.cycle)}, "
        f"attempt {_or_none(result.attempt)}"
    )
    yield f"hardware    {', '.join(gpus) or (environment and environment.cpu_model) or NOT_MEASURED}"
    yield f"window      {result.start_time:%Y-%m-%d %H:%M:%S} UTC, {result.total_inference_time_sec:.3f} s"
    yield f"tokens      {_or_none(result.input_tokens)} input + {_or_none(result.output_tokens)} output"
    yield (
        f"speed       {_figure(result.output_tokens_per_second)} output tokens/s, "
        f"{_figure(result.total_tokens_per_second)} total tokens/s"
    )
    yield (
        f"energy      {_figure(result.total_energy_j)} J, {_figure(result.energy_per_output_token_j)} J/output token "
        f"(source {_or_none(result.energy_source)})"
    )
    if latency is not None:
        yield f"latency     TTFT mean {_figure(latency.ttft_mean_ms)} ms, ITL mean {_figure(latency.itl_mean_ms)} ms"
    yield from _labelled("warning", result.measurement_warnings)
    yield from _labelled("aggregation", result.aggregation.warnings if result.aggregation else [])


def _failure_lines(directory: Path) -> Iterator[str]:
    failure = JobFailure.from_json(directory / files.FAILURE_FILE)
    yield f"{failure.experiment_id}  failed: {failure.error_class} (exit code {failure.exit_code})"
    yield f"directory   {directory}"
    yield f"message     {failure.message} {failure.advice}"
    yield from _labelled("log", failure.log_tail)


def _labelled(label: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines[:_MOST_LINES]:
        yield f"{label:<11} {line}"
    if len(lines) > _MOST_LINES:
        yield f"{label:<11} {len(lines) - _MOST_LINES} more; --json has all"


def _process_lines(raw: RawProcessResult) -> Iterator[str]:
    inference, energy, compute = raw.inference_metrics, raw.energy_metrics, raw.compute_metrics
    yield f"process {raw.process_index}   {', '.join(raw.gpu_uuids or ()) or 'no GPU'}"
    yield f"            {raw.timestamps.start:%Y-%m-%d %H:%M:%S} UTC, {raw.timestamps.duration_sec:.3f} s"
    yield (
        f"            {inference.total_prompts} requests, {_or_none(inference.input_tokens)} input + "
        f"{_or_none(inference.output_tokens)} output tokens, {_figure(inference.avg_tokens_per_second)} tokens/s"
    )
    yield (
        f"            {_figure(energy.total_energy_joules)} J, {_figure(energy.avg_power_watts)} W, "
        f"peak memory {_figure(compute.peak_memory_mb)} MB"
    )


def _or_none(value: object) -> str:
    return NOT_MEASURED if value is None else str(value)
