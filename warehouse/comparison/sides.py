"""The campaigns that the database has, as the two sides of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import from_json

from images.contract.config import ExperimentConfig
from warehouse.comparison.selection import Campaign, MeansNothing, Selection, flat, known_names, listed, quoted, select
from warehouse.errors import WarehouseError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True)
class Lost:
    """Jobs of one configuration in one study without a result that counts; a failure does not say what it ran on."""

    n_failed: int = 0
    n_invalid: int = 0


Losses = Mapping[tuple[str | None, str | None], Lost]
"""By study and configuration hash; what has lost nothing is not in it."""


def select_both(
    connection: DuckDBPyConnection, selectors: tuple[str, str], study: str | None, include_all: bool
) -> tuple[Selection, Selection]:
    """The campaigns that each of the two selectors means, those without a run that counts left out.

    Raises:
        WarehouseError: a selector means nothing, or only what is left out, or there is no such study.
    """
    rows = connection.execute("SELECT * FROM campaign_groups ORDER BY first_start, campaign_id")
    names = [column[0] for column in rows.description or ()]
    everything = [Campaign(dict(zip(names, row, strict=True))) for row in rows.fetchall()]
    here = [campaign for campaign in everything if study is None or campaign.get("study") == study]
    if not here:
        _refuse_failed(quoted(study), [one for one in _failed(connection, names) if one.get("study") == study])
        raise WarehouseError(f"there is no study {quoted(study)}; there are {known_names(everything)}.", 2)

    def with_settings(campaigns: Sequence[Campaign]) -> list[Campaign]:
        return _with_settings(connection, campaigns)

    counting = here if include_all else [campaign for campaign in here if _counts(campaign)]
    found = []
    for selector in selectors:
        try:
            found.append(select(selector, counting, with_settings))
        except WarehouseError:
            # Tell whether it is only what is left out, or what failed, that keeps it from being found.
            try:
                left_out = select(selector, here, with_settings).campaigns
            except MeansNothing:
                failed = [one for one in _failed(connection, names) if study is None or one.get("study") == study]
                with suppress(MeansNothing):
                    _refuse_failed(quoted(selector), select(selector, failed, list).campaigns if failed else ())
                raise
            raise WarehouseError(
                f"{quoted(selector)} means campaigns ({listed([one.label() for one in left_out])}) that have only "
                "simulated or invalid runs, which prove nothing. Compare them all the same with --all.",
                2,
            ) from None
    return found[0], found[1]


def losses(connection: DuckDBPyConnection) -> Losses:
    """Everywhere, on GPUs that are not simulated."""
    rows = connection.execute(
        """
        SELECT study, measurement_config_hash, sum(n_failed)::INTEGER, sum(n_invalid)::INTEGER
        FROM (
            SELECT study, measurement_config_hash, 1 AS n_failed, 0 AS n_invalid FROM standing_failures
            UNION ALL
            SELECT study, measurement_config_hash, 0, n_invalid FROM campaign_groups WHERE NOT is_simulated
        )
        GROUP BY study, measurement_config_hash
        """
    ).fetchall()
    return {(study, config_hash): Lost(*counts) for study, config_hash, *counts in rows if any(counts)}


def _failed(connection: DuckDBPyConnection, columns: Sequence[str]) -> list[Campaign]:
    """Failed jobs without a result, each as the campaign that it would have been in, as far as that is known."""
    known = ("study", "experiment", "backend", "measurement_config_hash", "model", "dtype", "batch_size")
    rows = connection.execute(f"SELECT experiment_id, {', '.join(known)}, config FROM standing_failures").fetchall()
    return [
        Campaign(
            {**dict.fromkeys(columns), "campaign_id": experiment_id, **dict(zip(known, values, strict=True))},
            _settings(from_json(config)) if config else {},
        )
        for experiment_id, *values, config in rows
    ]


def _refuse_failed(what: str, failed: Sequence[Campaign]) -> None:
    if failed:
        jobs = "its only job" if len(failed) == 1 else f"all {len(failed)} jobs"
        raise WarehouseError(
            f'{what} has no result to compare: {jobs} failed. Why: warehouse sql "FROM failure_summary".', 2
        )


def _counts(campaign: Campaign) -> bool:
    return not campaign.get("is_simulated") and bool(campaign.get("n_cycles"))


def _with_settings(connection: DuckDBPyConnection, campaigns: Sequence[Campaign]) -> list[Campaign]:
    missing = [campaign.id for campaign in campaigns if not campaign.settings]
    rows = connection.execute(
        """
        SELECT campaign_id, min_by(effective_config, start_time) FROM experiments
        WHERE campaign_id IN (SELECT unnest($ids::VARCHAR[])) GROUP BY campaign_id
        """,
        {"ids": missing},
    ).fetchall()
    read = {campaign_id: _settings(from_json(text)) for campaign_id, text in rows}
    return [replace(one, settings=read.get(one.id, one.settings)) for one in campaigns]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """An older run's lacks the settings that came later; they had their default then, too."""
    return {**_defaults(str(config.get("backend", "pytorch"))), **flat(config)}


@cache
def _defaults(backend: str) -> dict[str, Any]:
    try:
        return flat(ExperimentConfig.model_validate({"backend": backend}).model_dump(mode="json"))
    except ValidationError:
        return {}
