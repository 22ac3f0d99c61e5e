"""The kinds of work that campaigns did, and what each is called: what was asked of the model, as far as it differs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from duckdb import DuckDBPyConnection

from warehouse.plain_text import clipped

_LONGEST = 100
_LONGEST_VALUE = 20
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """What campaigns have to have in common to be held against each other.

    Attributes:
        model: the last part of its name.
        campaigns: with a measured energy.
        rate: arrivals per second of an open loop; None is a closed one, in which the engine sets the pace.
    """

    id: str
    label: str
    model: str
    campaigns: int
    rate: str | None = None


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
    names = {work_id: _name(model, prompts, tokens) for work_id, model, _, prompts, tokens, _ in found}
    names |= _told_apart(connection, names)
    doubled = {name for name, count in Counter(names.values()).items() if count > 1}
    works = [
        Work(
            work_id,
            f"{names[work_id]} ({work_id[:6]})" if names[work_id] in doubled else names[work_id],
            clipped(str(model or "").rstrip("/").rpartition("/")[2] or "unknown", _LONGEST),
            campaigns,
            rate,
        )
        for work_id, model, campaigns, *_, rate in found
    ]
    place = {work.id: at for at, work in enumerate(works)}
    for row in rows:
        row["work"] = place.get(row["work_id"])
    return works


def _name(model: str | None, prompts: str | None, tokens: str | None) -> str:
    name = clipped(model or "unknown model", _LONGEST)
    if prompts is not None:
        name += f", {clipped(prompts, _LONGEST_VALUE)} prompts"
    if tokens is not None:
        name += f", at most {clipped(tokens, _LONGEST_VALUE)} output tokens"
    return name


def _told_apart(connection: DuckDBPyConnection, names: Mapping[str, str]) -> dict[str, str]:
    """Longer names of the works that are called the same: with all that differs between these, in words."""
    groups: dict[str, list[str]] = defaultdict(list)
    for work_id, name in names.items():
        groups[name].append(work_id)
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        return {}
    configs: dict[str, list[Config]] = defaultdict(list)
    # A work can have been asked for in several ways; then these say nothing about it.
    for work_id, *parts in connection.execute(
        """
        SELECT DISTINCT work_id, effective_config -> '$.workload', effective_config -> '$.sampling',
            effective_config -> '$.measurement.methodology', effective_config -> '$.seed'
        FROM temp.campaigns JOIN experiments USING (campaign_id, work_id)
        WHERE work_id IN (SELECT unnest($ids::VARCHAR[]))
        """,
        {"ids": [work_id for group in alike for work_id in group]},
    ).fetchall():
        known = zip(("workload", "sampling", "methodology", "seed"), map(_parsed, parts), strict=True)
        configs[work_id].append({name: value for name, value in known if value is not None})
    found = {}
    for group in alike:
        words = {work_id: [_said(words_of, configs[work_id]) for words_of in _WORDS] for work_id in group}
        differing = [at for at in range(len(_WORDS)) if len({words[work_id][at] for work_id in group}) > 1]
        for work_id in group:
            told = [names[work_id], *(text for at in differing if (text := words[work_id][at]) is not None)]
            found[work_id] = ", ".join(told)
    return found


def _parsed(text: str | None) -> Any:
    return json.loads(text) if text is not None else None


def _said(words_of: Callable[[Config], str | None], configs: Sequence[Config]) -> str | None:
    """What holds for all of them."""
    found = {words_of(config) for config in configs}
    return found.pop() if len(found) == 1 else None


def _arrivals(config: Config) -> str | None:
    arrivals = _part(_part(config, "workload"), "arrivals")
    process, rate = arrivals.get("process", "closed"), arrivals.get("rate_per_s")
    if process == "closed":
        return "all requests at once" if "workload" in config else None
    if not isinstance(rate, int | float):
        return f"arrivals {_short(process)}"
    shape = f", shape {_short(arrivals.get('shape'))}" if process == "gamma" else ""
    return f"{rate:g} requests/s ({'evenly' if process == 'fixed' else _short(process)}{shape})"


def _end(config: Config) -> str | None:
    ignored = _part(config, "workload").get("ignore_eos")
    return {True: "past the end token", False: "up to the end token"}.get(ignored) if ignored is not None else None


def _sampling(config: Config) -> str | None:
    temperature = _part(config, "sampling").get("temperature")
    if not isinstance(temperature, int | float):
        return None
    return "greedy" if temperature == 0 else f"temperature {temperature:g}"


def _template(config: Config) -> str | None:
    template = _part(config, "workload").get("chat_template")
    return {"off": "no chat template", "model": "chat template"}.get(str(template))


def _source(config: Config) -> str | None:
    source = _part(config, "workload").get("source")
    return None if source is None else f"prompts {_short(PurePath(str(source)).name)}"


def _lengths(side: str) -> Callable[[Config], str | None]:
    def words_of(config: Config) -> str | None:
        lengths = _part(_part(config, "workload"), f"{side}_lengths")
        distribution = lengths.get("distribution")
        if distribution is None:
            return None
        known = {"minimum": "from", "median": "median", "sigma": "sigma"}
        drawn = [f"{word} {_short(value)}" for name, word in known.items() if (value := lengths.get(name)) is not None]
        return f"{side}s {_short(distribution)}" + (f" ({', '.join(drawn)})" if distribution != "fixed" else "")

    return words_of


def _setting(name: str, words: str, *, of_workload: bool = True) -> Callable[[Config], str | None]:
    def words_of(config: Config) -> str | None:
        value = (_part(config, "workload") if of_workload else config).get(name)
        return None if value is None else words.format(_short(value))

    return words_of


def _part(config: Config, name: str) -> Config:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _short(value: object) -> str:
    return clipped(f"{value:g}" if isinstance(value, float) else str(value).replace("_", " "), _LONGEST_VALUE)


_WORDS: Sequence[Callable[[Config], str | None]] = (
    _arrivals,
    _end,
    _sampling,
    _template,
    _source,
    _setting("max_input_tokens", "at most {} input tokens"),
    _lengths("input"),
    _lengths("output"),
    _setting("order", "order {}"),
    _setting("methodology", "figures of {}", of_workload=False),
    _setting("seed", "seed {}", of_workload=False),
)
"""Of a configuration what tells works apart beside the model and how much is asked of it, in the order it is told."""
