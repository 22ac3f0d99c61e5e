"""``warehouse aggregate``, also ``warehouse results aggregate``."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import click

from warehouse.commands.options import File
from warehouse.errors import WarehouseError
from warehouse.late_aggregation import Aggregated, aggregate, aggregate_folder
from warehouse.plain_text import printable
from warehouse.repository import FileSystemRepository

results_folder = click.option(
    "--results",
    "folder",
    type=File(),
    default=Path("results"),
    show_default=True,
    metavar="DIR",
    help="The results folder.",
)


@click.command("aggregate")
@click.argument("experiment_id", metavar="[ID]", required=False)
@click.option("--all", "every", is_flag=True, help="Everything that is left; goes on after one that fails.")
@click.option("--force", is_flag=True, help="Also of incomplete experiments; such a result is invalid.")
@results_folder
def command(experiment_id: str | None, every: bool, force: bool, folder: Path) -> int:
    """Make results of what incomplete experiments left in raw/.

    The result is the one that the job would have made. It becomes a directory like any other, beside raw/;
    then the raw files go. ID is the name of a folder in raw/.
    """
    if every == (experiment_id is not None):
        raise WarehouseError("name one ID, or all with --all. See `warehouse aggregate --help`.", 2)
    repository = FileSystemRepository(folder)
    if experiment_id is not None:
        _tell(experiment_id, aggregate(repository, experiment_id, force=force))
        return 0
    return _aggregate_all(repository, force)


def _aggregate_all(repository: FileSystemRepository, force: bool) -> int:
    contents = repository.scan()
    for problem in contents.problems:
        click.echo(f"warehouse: {printable(problem)}", err=True)
    n_failed = 0
    for experiment_id, folders in groupby(sorted(contents.raw, key=_name), _name):
        try:
            folder = repository.only(list(folders), experiment_id)
            assert folder is not None
            _tell(experiment_id, aggregate_folder(repository, folder, force=force))
        except (WarehouseError, OSError) as error:
            n_failed += 1
            click.echo(f"warehouse: {printable(_why(error))}", err=True)
    if not contents.raw:
        click.echo(f"{printable(repository.base_path)} has no leftover raw results")
    return 1 if n_failed or contents.problems else 0


def _name(folder: Path) -> str:
    return folder.name


def _why(error: WarehouseError | OSError) -> str:
    return str(error) if isinstance(error, WarehouseError) else f"{error.filename} cannot be used ({error.strerror})"


def _tell(experiment_id: str, done: Aggregated) -> None:
    experiment_id, directory = printable(experiment_id), printable(done.directory)
    if not done.is_new:
        click.echo(f"{experiment_id} has been aggregated already: {directory}")
    elif done.lacks is None:
        click.echo(f"{experiment_id} -> {directory}")
    else:
        click.echo(f"{experiment_id} -> {directory} (invalid: {printable(done.lacks)})")
