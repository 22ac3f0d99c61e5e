"""What campaigns and their work are called on a page: short, and different where they differ."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from duckdb import DuckDBPyConnection

from warehouse.commands.plain_text import clipped

_SEPARATOR = " · "
_PARTS: Mapping[str, Callable[[Any], str]] = {
    "model": lambda value: str(value).rstrip("/").rpartition("/")[2] or str(value),
    "backend": str,
    "batch": lambda value: f"batch {value}",
    "dtype": str,
    "processes": lambda value: f"{value} processes",
    "hardware": lambda value: str(value).removeprefix("NVIDIA "),
    "study": str,
    "simulated": lambda value: "simulated" if value else "",
}
"""Shown where they differ, in this order."""
_RATHER = ("experiment", "driver", "image", "limit", "commit", "hash", "id")
"""Added one by one while some are still called the same."""
_ALWAYS = ("backend", "batch")
_LONGEST = 100


@dataclass(frozen=True)
class Work:
    """What campaigns have to have in common to be held against each other.

    Attributes:
        campaigns: with a measured energy.
        rate: arrivals per second of an open loop; None is a closed one, in which the engine sets the pace.
    """

    id: str
    label: str
    campaigns: int
    rate: str | None = None


def labels_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each campaign, made of what tells them apart."""
    parts = [name for name in _PARTS if name in _ALWAYS or len({row[name] for row in rows}) > 1]
    labels = [_joined(_PARTS[name](row[name]) for name in parts if row[name] is not None) for row in rows]
    for name in _RATHER:
        doubled = {label for label, count in Counter(labels).items() if count > 1}
        if not doubled:
            break
        of_label: dict[str, set[Any]] = defaultdict(set)
        for label, row in zip(labels, rows, strict=True):
            of_label[label].add(row[name])
        labels = [
            _joined([label, _rather(name, row[name])]) if label in doubled and len(of_label[label]) > 1 else label
            for label, row in zip(labels, rows, strict=True)
        ]
    return [clipped(label, _LONGEST) for label in labels]


def _rather(name: str, value: Any) -> str:
    if name == "experiment":
        return str(value) if value is not None else "no experiment"
    return f"{'campaign' if name == 'id' else name} {'not recorded' if value is None else value}"


def _joined(parts: Sequence[str] | Iterator[str]) -> str:
    return _SEPARATOR.join(filter(None, parts))


def works_of(connection: DuckDBPyConnection, rows: Sequence[dict[str, Any]]) -> list[Work]:
    """The work that several did, most campaigns first; each row's `work` becomes its place among them, or None."""
    found = connection.execute(
        """
        SELECT work_id, arg_max(experiments.model, experiment_key), count(DISTINCT campaign_id),
            arg_max(effective_config ->> '$.workload.n_prompts', experiment_key),
            arg_max(effective_config ->> '$.workload.max_output_tokens', experiment_key),
            arg_max(effective_config ->> '$.workload.arrivals.rate_per_s', experiment_key)
        FROM temp.campaigns JOIN experiments USING (campaign_id, work_id)
        WHERE work_id IS NOT NULL AND campaigns.energy_per_output_token_j IS NOT NULL
        GROUP BY work_id ORDER BY 3 DESC, work_id
        """
    ).fetchall()
    names = [_work_name(model, prompts, tokens) for _, model, _, prompts, tokens, _ in found]
    doubled = {name for name, count in Counter(names).items() if count > 1}
    works = [
        Work(work_id, f"{name} ({work_id[:6]})" if name in doubled else name, campaigns, rate)
        for (work_id, _, campaigns, *_, rate), name in zip(found, names, strict=True)
    ]
    place = {work.id: at for at, work in enumerate(works)}
    for row in rows:
        row["work"] = place.get(row["work_id"])
    return works


def _work_name(model: str | None, prompts: str | None, tokens: str | None) -> str:
    name = clipped(model or "unknown model", _LONGEST)
    if prompts is not None:
        name += f", {clipped(prompts, 20)} prompts"
    if tokens is not None:
        name += f", at most {clipped(tokens, 20)} output tokens"
    return name
