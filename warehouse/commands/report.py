"""``warehouse report``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import duckdb

from warehouse.commands import options
from warehouse.compare import compare
from warehouse.database import reading
from warehouse.errors import WarehouseError, first_line
from warehouse.export import new_file
from warehouse.numerals import counted
from warehouse.plain_text import printable
from warehouse.report.captions import CAPTIONS_FILE, captions, left_out
from warehouse.report.comparing import Compared, compared_sides
from warehouse.report.data import ReportData, read_report
from warehouse.report.page import page
from warehouse.report.pictures import PICTURE_FORMATS, PictureFormat, drawn, pictures_of

_USUAL_WIDTH_CM = 17.0


@dataclass(frozen=True)
class _Asked:
    """What is to be compared."""

    a: str
    b: str
    study: str | None
    metrics: Sequence[str]
    confidence: float


@click.command("report")
@click.option(
    "-o",
    "--output",
    "target",
    type=options.File(),
    metavar="FILE",
    help="The page to write, such as report.html; one that is there is replaced.",
)
@click.option("--study", "studies", multiple=True, metavar="NAME", help="Only this study; again for more of them.")
@click.option("--all", "include_all", is_flag=True, help="Let invalid cycles and simulated GPUs count, too.")
@click.option(
    "--compare",
    "sides",
    nargs=2,
    metavar="A B",
    help="Put the comparison of these on top, as `warehouse compare` takes them, and report on their campaigns alone.",
)
@click.option(
    "--metric", "metrics", multiple=True, metavar="COLUMN", help="With --compare: this column of runs; repeatable."
)
@click.option(
    "--confidence", type=options.Number(min=0.5, max=0.9999), help="With --compare: of its intervals.  [default: 0.95]"
)
@click.option(
    "--pictures",
    "folder",
    type=options.File(),
    metavar="DIR",
    help="Write every chart as files into DIR, for a paper, with captions.",
)
@click.option(
    "--picture-format", type=click.Choice([*PICTURE_FORMATS, "both"]), help="With --pictures.  [default: both]"
)
@click.option(
    "--picture-width",
    "width_cm",
    type=options.Number(min=5, max=60),
    metavar="CM",
    help=f"With --pictures: of each; 8.5 is a column of two.  [default: {_USUAL_WIDTH_CM:g}]",
)
@options.database
@options.wait
def command(
    target: Path | None,
    studies: tuple[str, ...],
    include_all: bool,
    sides: tuple[str, str] | None,
    metrics: tuple[str, ...],
    confidence: float | None,
    folder: Path | None,
    picture_format: str | None,
    width_cm: float | None,
    database: Path,
    wait_s: float,
) -> None:
    """Write everything measured as one page for a browser.

    The page is one file that needs no network: tables and charts with every interval and every cycle, Pareto fronts,
    traces of power and temperature, latencies, drift, what failed, and where it all came from. Figures are those of
    `warehouse campaign`. Charts can be zoomed, filtered and saved as SVG or PNG.
    """
    if target is None and folder is None:
        raise WarehouseError("there is nothing to write: give -o FILE, --pictures DIR, or both.", 2)
    _refuse_without("--compare", sides, {"--metric": metrics or None, "--confidence": confidence})
    _refuse_without("--pictures", folder, {"--picture-format": picture_format, "--picture-width": width_cm})
    if sides is not None and len(studies) > 1:
        raise WarehouseError("with --compare, give one --study at most: it narrows both sides.", 2)
    if target is not None and os.path.realpath(target) == os.path.realpath(database):
        raise WarehouseError(f"{target} is the database itself. Give another file with -o.", 2)
    asked = None
    if sides is not None:
        asked = _Asked(*sides, studies[0] if studies else None, metrics, confidence or 0.95)
    with ExitStack() as whole:
        # Opened first: that nothing can be written there should not be told after everything is drawn.
        stream = whole.enter_context(new_file(target)) if target is not None else None
        if folder is not None:
            whole.enter_context(_folder(folder))
        data = _read(database, studies, include_all, asked, wait_s)
        told = []
        if folder is not None:
            formats = tuple(one for one in PICTURE_FORMATS if picture_format in (one, "both", None))
            told.append(_draw(whole, folder, data, width_cm or _USUAL_WIDTH_CM, formats))
        if stream is not None:
            content = page(data)
            stream.write(content)
            told.append(_summary(Path(str(target)), data, len(content)))
    for line in told:
        click.echo(line)


def _draw(whole: ExitStack, folder: Path, data: ReportData, width_cm: float, formats: tuple[PictureFormat, ...]) -> str:
    """All pictures and their captions, which are there once `whole` ends well; and what there is to be said of them."""
    wanted = pictures_of(data)
    made = list(drawn(wanted, data, width_cm, formats))
    if made:
        made.append((CAPTIONS_FILE, captions(wanted, formats, data).encode()))
    for name, content in made:
        whole.enter_context(new_file(folder / name)).write(content)
    told = f"{printable(folder)}: {counted(len(wanted) * len(formats), 'picture')}"
    if made:
        told += f" and {CAPTIONS_FILE}"
    limit = left_out(data) if made else _uncounted(data)
    return f"{told} ({limit})" if limit else told


def _uncounted(data: ReportData) -> str:
    """Why there is nothing to draw, and what to do."""
    counts = data.counts
    of = {"invalid": counts.invalid, "on simulated GPUs": counts.left_out}
    known = [f"{n:,} {what}" for what, n in of.items() if n]
    if known:
        return f"no cycle counts: {', '.join(known)}; --all takes them"
    return "every job failed" if counts.failed else "nothing was measured"


def _refuse_without(option: str, given: object, others: dict[str, object]) -> None:
    alone = [name for name, value in others.items() if value is not None]
    if alone and given is None:
        raise WarehouseError(f"{alone[0]} says something about {option} only. Give that, too.", 2)


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """It is there; one that was made for nothing goes again."""
    there = folder.is_dir()
    if not there:
        try:
            folder.mkdir()
        except OSError as error:
            raise WarehouseError(
                f"{folder} cannot be made ({error.strerror}). Give a folder, or a new one in a folder that exists.", 2
            ) from None
    try:
        yield
    except BaseException:
        if not there:
            with suppress(OSError):
                folder.rmdir()
        raise


def _read(
    database: Path, studies: tuple[str, ...], include_all: bool, asked: _Asked | None, wait_s: float
) -> ReportData:
    with reading(database, wait_s) as connection:
        try:
            compared = _compare(connection, asked, include_all) if asked is not None else None
            return read_report(
                connection, database, studies, include_all=include_all, made_at=datetime.now(UTC), compared=compared
            )
        except duckdb.Error as error:
            raise WarehouseError(f"{database} cannot be read: {first_line(error)}.") from None


def _compare(connection: duckdb.DuckDBPyConnection, asked: _Asked, include_all: bool) -> Compared:
    found = compare(
        connection,
        asked.a,
        asked.b,
        study=asked.study,
        metrics=asked.metrics,
        confidence=asked.confidence,
        include_all=include_all,
    )
    return compared_sides(found, asked.a, asked.b, asked.confidence, include_all=include_all)


def _summary(target: Path, data: ReportData, size: int) -> str:
    counts = data.counts
    configurations, cycles = counted(counts.campaigns, "configuration"), counted(counts.cycles, "cycle")
    text = f"{printable(target)}: {configurations}, {cycles}, {size / 1e6:.1f} MB"
    if counts.left_out:
        text += f" ({counted(counts.left_out, 'cycle')} on simulated GPUs left out; --all shows them)"
    return text
