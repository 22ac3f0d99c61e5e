"""Which campaigns the two sides of a comparison are, and which of one belongs to which of the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from warehouse.errors import WarehouseError
from warehouse.plain_text import clipped, printable

CONDITIONS = ("study", "image", "driver_version", "power_limits_w", "model_commit")
"""What campaigns are told apart by only if settings and hardware leave several, in this order."""

_HARDWARE = ("hardware", "gpu_count", "is_simulated")
_BACKEND_SECTIONS = ("config.pytorch", "config.vllm", "config.trt", "config.stub")
# What else differs, too, where the column does. A section stands for everything below it.
_ALSO: Mapping[str, tuple[str, ...]] = {
    "campaign_id": ("config",),
    "experiment": ("config",),
    "measurement_config_hash": ("config",),
    "backend": ("config.backend", *_BACKEND_SECTIONS),
    "model": ("config.model", "config.model_revision", "model_commit"),
    "dtype": ("config.dtype",),
    "batch_size": ("config.batch_size",),
    "num_processes": ("config.num_processes", "gpu_count"),
    "gpus_per_process": ("config.gpus_per_process", "gpu_count"),
    "gpu_count": ("config.num_processes", "config.gpus_per_process"),
    "config.num_processes": ("gpu_count",),
    "config.gpus_per_process": ("gpu_count",),
    "config.backend": _BACKEND_SECTIONS,
    "config.model": ("config.model_revision", "model_commit"),
}
_PREFIXES = ("campaign_id", "measurement_config_hash")
_BARE = ("campaign_id", "study", "experiment", "backend", "measurement_config_hash")
_HEX = re.compile(r"[0-9a-f]{6,16}")
_TERM = re.compile(r"(?P<name>[A-Za-z_][\w.]*)=(?P<value>.*)", re.DOTALL)
_SHOWN = 4
_LONGEST = 80
"""Characters of a name that are shown."""

Settings = Mapping[str, Any]
"""A configuration, flat: "config.workload.n_prompts" -> 128."""


class MeansNothing(WarehouseError):
    """No campaign is what a selector means."""


@dataclass(frozen=True)
class Campaign:
    """One row of campaign_groups, by column."""

    columns: Mapping[str, Any]
    settings: Settings = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.columns["campaign_id"])

    def get(self, name: str) -> Any:
        value = self.settings.get(name) if name.startswith("config.") else self.columns.get(name)
        return tuple(value) if isinstance(value, list) else value

    def label(self) -> str:
        """In words, for people: enough to tell it from its neighbours."""
        parts = [self.id[:8], self.columns.get("study"), self.columns.get("experiment"), self.columns.get("backend")]
        return " ".join(shown(part) for part in parts if part is not None)


@dataclass(frozen=True)
class Selection:
    """Campaigns of one side and the columns and settings that its selector names."""

    campaigns: Sequence[Campaign]
    named: frozenset[str]


def select(
    selector: str,
    campaigns: Sequence[Campaign],
    with_settings: Callable[[Sequence[Campaign]], list[Campaign]],
) -> Selection:
    """The campaigns that `selector` means: a name or the start of an id, or column=value[,column=value].

    Args:
        with_settings: reads the configurations of some campaigns; asked only for those that may be meant.

    Raises:
        MeansNothing: it means none.
        WarehouseError: it means two kinds of thing, or cannot be read.
    """
    if "=" in selector:
        return _by_terms(selector, campaigns, with_settings)
    kinds = {kind: found for kind in _BARE if (found := _matching(campaigns, kind, selector, bare=True))}
    for kind, found in kinds.items():
        if kind in _PREFIXES and selector == found[0].get(kind):
            kinds = {kind: found}
            break
    if not kinds:
        raise MeansNothing(f"no campaign is called {quoted(selector)}; there are {known_names(campaigns)}.", 2)
    if len({tuple(campaign.id for campaign in found) for found in kinds.values()}) > 1:
        choices = " or ".join(f"{kind}={shown(selector)}" for kind in kinds)
        raise WarehouseError(f"{quoted(selector)} is more than one thing. Write {choices}.", 2)
    return Selection(with_settings(next(iter(kinds.values()))), frozenset(kinds))


Pair = tuple[Campaign, Campaign]


def pairs_of_campaigns(a: Selection, b: Selection) -> list[Pair]:
    """Each campaign of A with the one of B that differs from it in nothing but what the selectors name.

    Settings and hardware have to be the same. Where that leaves several, those of the same study belong together, then
    those of the same image, and so on through `CONDITIONS`. A single campaign on each side is always a pair. Campaigns
    without a counterpart are left out.

    Raises:
        WarehouseError: no pair is left, several remain for one, or a campaign is on both sides.
    """
    both = {campaign.id for campaign in a.campaigns} & {campaign.id for campaign in b.campaigns}
    if both:
        label = next(campaign.label() for campaign in a.campaigns if campaign.id in both)
        raise WarehouseError(f"A and B both mean campaign {label}. Narrow one, such as with study=NAME or --study.", 2)
    if len(a.campaigns) == len(b.campaigns) == 1:
        return [(a.campaigns[0], b.campaigns[0])]
    named = _widened(a.named | b.named)
    sides = (_grouped(a.campaigns, named), _grouped(b.campaigns, named))
    conditions = [name for name in CONDITIONS if not _is_named(name, named)]
    pairs = []
    for key, of_a in sides[0].items():
        if of_b := sides[1].get(key):
            pairs += _told_apart(of_a, of_b, conditions)
    if not pairs:
        raise _no_counterpart(a, b, named)
    return pairs


def differences(a: Campaign, b: Campaign) -> list[str]:
    """Columns and settings that differ between the two."""
    names = [*_HARDWARE, *CONDITIONS]
    if a.get("measurement_config_hash") != b.get("measurement_config_hash"):
        names = ["backend", *names, *sorted(set(a.settings) | set(b.settings))]
    # Of two backends, each has a section that the other lacks: their name says it.
    hidden = (*_BACKEND_SECTIONS, "config.backend") if a.get("backend") != b.get("backend") else ()
    return [name for name in names if not _is_named(name, hidden) and a.get(name) != b.get(name)]


def require_studies(known: Sequence[str], database: Path, studies: Sequence[str]) -> None:
    """
    Raises:
        WarehouseError: one of `studies` is not among those that the database has.
    """
    for study in studies:
        if study not in known:
            near = get_close_matches(study, known, n=3, cutoff=0.5)
            there = f"did you mean {listed(near)}?" if near else f"there are {listed(known) or 'none'}."
            raise WarehouseError(f"there is no study {quoted(study)} in {printable(database)}; {there}", 2)


def known_names(campaigns: Sequence[Campaign]) -> str:
    """What could have been asked for, in one line."""
    kinds = {"studies": "study", "experiments": "experiment", "backends": "backend"}
    parts = []
    for plural, column in kinds.items():
        names = sorted({str(name) for campaign in campaigns if (name := campaign.get(column)) is not None})
        if names:
            parts.append(f"{plural} {listed(names)}")
    return "; ".join(parts) or "no campaigns"


def listed(names: Sequence[str], most: int = _SHOWN) -> str:
    """The first few, as they may be shown."""
    rest = len(names) - most
    return ", ".join(map(shown, names[:most])) + (f" and {rest} more" if rest > 0 else "")


def shown(text: object) -> str:
    """Of a text that anybody may have written what a line on a terminal can bear."""
    return clipped(text, _LONGEST)


def quoted(text: object) -> str:
    """The same between quotes."""
    return f"'{shown(text)}'"


def flat(config: Mapping[str, Any], prefix: str = "config") -> dict[str, Any]:
    """A configuration with its sections' names put before their fields'."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}.{name}")
        else:
            found[f"{prefix}.{name}"] = repr(value) if isinstance(value, list | Mapping) else value
    return found


def _by_terms(
    selector: str, campaigns: Sequence[Campaign], with_settings: Callable[[Sequence[Campaign]], list[Campaign]]
) -> Selection:
    terms = [_term(text, campaigns) for text in re.split(r",(?=[A-Za-z_][\w.]*=)", selector)]
    found = list(campaigns)
    # Columns first, so that few configurations have to be read.
    for name, value in sorted(terms, key=lambda term: term[0].startswith("config.")):
        if name.startswith("config."):
            found = with_settings(found)
            if found and not any(name in campaign.settings for campaign in found):
                field_name = quoted(name.removeprefix("config."))
                raise WarehouseError(f"no configuration has {field_name} ({quoted(selector)}).", 2)
        left = _matching(found, name, value)
        if not left:
            values = sorted({_as_text(campaign.get(name)) for campaign in found})
            there = f"; of those that the rest leaves, it is {listed(values)}" if values else ""
            raise MeansNothing(f"no campaign has {shown(name)}={shown(value)}{there}.", 2)
        found = left
    return Selection(with_settings(found), frozenset(name for name, _ in terms))


def _term(text: str, campaigns: Sequence[Campaign]) -> tuple[str, str]:
    found = _TERM.fullmatch(text.strip())
    columns = list(campaigns[0].columns) if campaigns else []
    if found is None or not (found["name"].startswith("config.") or found["name"] in columns):
        raise WarehouseError(
            f"{quoted(text)} is not a selector. Write column=value with config.PATH or one of {', '.join(columns)}.", 2
        )
    return found["name"], found["value"].strip()


def _matching(campaigns: Iterable[Campaign], name: str, value: str, *, bare: bool = False) -> list[Campaign]:
    if name in _PREFIXES:
        if bare and not _HEX.fullmatch(value):
            return []
        return [campaign for campaign in campaigns if value and str(campaign.get(name)).startswith(value)]
    return [campaign for campaign in campaigns if _is(campaign.get(name), value)]


def _is(found: Any, value: str) -> bool:
    if isinstance(found, tuple):
        return any(_is(part, value) for part in found)
    if found is None or isinstance(found, bool) or not isinstance(found, int | float):
        return _as_text(found) == value or (isinstance(found, bool) and str(found).lower() == value.lower())
    try:
        return float(value) == found
    except ValueError:
        return False


def _as_text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _widened(named: Iterable[str]) -> frozenset[str]:
    return frozenset(name for given in named for name in (given, *_ALSO.get(given, ())))


def _is_named(name: str, named: Iterable[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in named)


def _grouped(campaigns: Sequence[Campaign], named: frozenset[str]) -> dict[tuple[Any, ...], list[Campaign]]:
    """By everything that has to be the same."""
    by_hash = not any(name == "config" or name.startswith("config.") for name in named)
    groups: dict[tuple[Any, ...], list[Campaign]] = {}
    for campaign in campaigns:
        if by_hash:
            settings: tuple[Any, ...] = (campaign.get("measurement_config_hash"),)
        else:
            free = sorted(name for name in campaign.settings if not _is_named(name, named))
            settings = tuple((name, campaign.get(name)) for name in free)
        hardware = tuple(campaign.get(name) for name in _HARDWARE if not _is_named(name, named))
        groups.setdefault((settings, hardware), []).append(campaign)
    return groups


def _told_apart(a: list[Campaign], b: list[Campaign], conditions: Sequence[str]) -> list[Pair]:
    if len(a) == len(b) == 1:
        return [(a[0], b[0])]
    if not conditions:
        raise _several(a, b)
    name, *others = conditions
    values = {campaign.get(name) for campaign in a} & {campaign.get(name) for campaign in b}
    if not values:
        return _told_apart(a, b, others)
    pairs = []
    for value in sorted(values, key=_as_text):
        pairs += _told_apart(
            [campaign for campaign in a if campaign.get(name) == value],
            [campaign for campaign in b if campaign.get(name) == value],
            others,
        )
    return pairs


def _several(a: Sequence[Campaign], b: Sequence[Campaign]) -> WarehouseError:
    side, found = ("A", a) if len(a) > 1 else ("B", b)
    apart = sorted({name for one in found[1:] for name in differences(found[0], one)})
    labels = listed([campaign.label() for campaign in found])
    how = f"they differ in {listed(apart)}; narrow {side} with one of these" if apart else f"narrow {side}"
    return WarehouseError(
        f"{side} means {len(found)} campaigns that go with the same one: {labels}. To choose, {how}, or give a "
        f"campaign_id ({found[0].id}).",
        2,
    )


def _no_counterpart(a: Selection, b: Selection, named: frozenset[str]) -> WarehouseError:
    pairs = [(one, other) for one in a.campaigns[:20] for other in b.campaigns[:20]]
    one, other = min(pairs, key=lambda pair: len(_unnamed(pair[0], pair[1], named)))
    return WarehouseError(
        f"no campaign of A ({len(a.campaigns)}) has a counterpart among those of B ({len(b.campaigns)}) that differs "
        f"in nothing but {listed(sorted(a.named | b.named))}; the nearest, {one.label()} and {other.label()}, differ "
        f"in {listed(_unnamed(one, other, named))}, too. To compare them all the same, give {one.id} {other.id}.",
        2,
    )


def _unnamed(a: Campaign, b: Campaign, named: frozenset[str]) -> list[str]:
    return [name for name in differences(a, b) if not _is_named(name, named)]
