"""``warehouse results``: what is in the results folder, without a database."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from warehouse.commands.plain_text import printable
from warehouse.errors import WarehouseError
from warehouse.repository import FileSystemRepository

NOT_MEASURED = "-"
_COLUMNS = "{:<28}  {:>15}  {:>15}  {}"


@click.group("results")
def command() -> None:
    """Look at, finish and delete single results in the results folder."""


command.add_command(aggregate.command)


@command.command("list")
@click.argument("named", metavar="[DIR]", type=click.Path(path_type=Path), required=False)
@click.option("--all", "everything", is_flag=True, help="Failures and leftover raw results, too.")
@results_folder
def list_results(named: Path | None, everything: bool, folder: Path) -> None:
    """List the finished results in DIR, the results folder, oldest first.

    With --all also failures with their reason, raw results that wait to be aggregated with what is missing
    (`warehouse aggregate`), and what cannot be read.
    """
    folder = named or folder
    repository = FileSystemRepository(folder)
    contents = repository.scan()
    click.echo(_COLUMNS.format("experiment_id", "J/output token", "output tokens/s", "state"))
    unread = list(contents.problems)
    for one in contents.finished:
        if one.failed and not everything:
            continue
        try:
            document = repository.document(one)
            line = _failure_line(document) if one.failed else _result_line(document)
        except (UnreadableResult, OSError) as error:
            unread.append(str(error))
            continue
        click.echo(f"{line}  {printable(one.path.relative_to(folder))}")
    if everything:
        for path in contents.raw:
            line = _COLUMNS.format(printable(path.name), "", "", f"raw: {_lacks(path)}")
            click.echo(f"{line}  {printable(path.relative_to(folder))}")
    n_failed = sum(one.failed for one in contents.finished)
    if not everything and (n_failed or contents.raw):
        click.echo(f"not shown: {n_failed} failed, {len(contents.raw)} raw; --all shows them", err=True)
    for problem in unread:
        click.echo(f"warehouse: {printable(problem)}", err=True)


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
        for line in lines(repository, experiment_id, as_json):
            click.echo(line)
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


def _result_line(data: dict[str, Any]) -> str:
    figures = [_figure(data.get(name)) for name in ("energy_per_output_token_j", "output_tokens_per_second")]
    return _COLUMNS.format(printable(data.get("experiment_id")), *figures, printable(_state(data)))


def _state(data: dict[str, Any]) -> str:
    valid = data.get("measurement_valid")
    if valid is False:
        reasons = data.get("invalid_reasons")
        return f"invalid: {', '.join(map(str, reasons))}" if isinstance(reasons, list) else "invalid"
    return "valid" if valid else "validity unknown"


def _failure_line(data: dict[str, Any]) -> str:
    state = f"failed: {data.get('error_class')} ({data.get('exit_code')})"
    return _COLUMNS.format(printable(data.get("experiment_id")), "", "", printable(state))


def _lacks(folder: Path) -> str:
    try:
        leftover = load_leftover(folder)
    except UnreadableResult as error:
        return printable(error)
    report = leftover.report()
    return "complete" if report.is_complete else printable(describe(report, leftover.damaged))


def _figure(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, int | float) and not isinstance(value, bool) else NOT_MEASURED


def _lines(repository: FileSystemRepository, experiment_id: str, as_json: bool) -> Iterator[str]:
    directory = repository.result_directory(experiment_id)
    if directory is not None:
        result, notes = _loaded(repository, directory)
        if as_json:
            yield json.dumps(files.read_json(directory / files.RESULT_FILE), indent=1)
            return
        yield from map(printable, _result_lines(result, directory))
        for note in notes:
            click.echo(f"warehouse: {printable(note)}", err=True)
        return
    failures = repository.failure_directories(experiment_id)
    folder = repository.raw_folder(experiment_id)
    if not failures and folder is None:
        raise repository.unknown(experiment_id)
    if as_json and failures:
        yield json.dumps(files.read_json(failures[0] / files.FAILURE_FILE), indent=1)
        return
    for path in failures:
        yield from map(printable, _failure_lines(path))
    if folder is not None and not as_json:
        yield printable(f"raw         {folder}")
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
        yield from map(printable, _process_lines(one))
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
    for warning in result.measurement_warnings:
        yield f"warning     {warning}"
    for warning in result.aggregation.warnings if result.aggregation else ():
        yield f"aggregation {warning}"


def _failure_lines(directory: Path) -> Iterator[str]:
    failure = JobFailure.from_json(directory / files.FAILURE_FILE)
    yield f"{failure.experiment_id}  failed: {failure.error_class} (exit code {failure.exit_code})"
    yield f"directory   {directory}"
    yield f"message     {failure.message} {failure.advice}"
    for line in failure.log_tail:
        yield f"log         {line}"


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
