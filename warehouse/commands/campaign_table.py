"""Campaigns as one table, a row each: for papers, where the blocks that a terminal shows take too much room."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from warehouse.campaign import MIXED, CampaignGroup, Figures

NOT_MEASURED = "-"
CYCLES = "cycles"
"""Name of the first column that holds a figure."""
_SHORT_ID = 8

_CONDITIONS: dict[str, Callable[[CampaignGroup], object]] = {
    "study": lambda group: group.study,
    "experiment": lambda group: group.experiment,
    "backend": lambda group: group.backend,
    "model": lambda group: group.model,
    "dtype": lambda group: group.dtype,
    "batch": lambda group: group.batch_size,
    "hardware": lambda group: (
        f"{group.hardware} x{group.gpu_count}" if group.hardware and group.gpu_count else group.hardware
    ),
    "simulated": lambda group: "yes" if group.is_simulated else "no",
    "driver": lambda group: group.driver_version,
    "limit (W)": lambda group: (
        MIXED
        if group.power_limits_w == MIXED
        else "/".join(f"{limit:g}" for limit in group.power_limits_w or () if not isinstance(limit, str)) or None
    ),
    "image": lambda group: group.image.rpartition(":")[2][:12] if group.image else None,
    "config": lambda group: (group.measurement_config_hash or "")[:_SHORT_ID] or None,
    "campaign": lambda group: (group.campaign_id or "")[:_SHORT_ID] or None,
}
"""What a campaign is told by, the most telling first."""
_ALWAYS = ("backend", "model", "batch", "hardware")


def campaign_table(
    groups: Sequence[CampaignGroup], metrics: dict[str, str], show: Callable[[Figures], str]
) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the rows.

    Shown of the conditions is what tells one row from another, and what a reader expects in any case.

    Args:
        metrics: label of each metric; those that no group has are left out.
        show: a metric's cell.
    """
    conditions = _telling(groups)
    measured = {metric: label for metric, label in metrics.items() if any(metric in one.figures for one in groups)}
    rows = [
        [
            *(_known(_CONDITIONS[name](group)) for name in conditions),
            _cycles(group),
            *(show(group.figures[metric]) if metric in group.figures else NOT_MEASURED for metric in measured),
        ]
        for group in groups
    ]
    return [*conditions, CYCLES, *measured.values()], rows


def _telling(groups: Sequence[CampaignGroup]) -> list[str]:
    shown = {name for name, of in _CONDITIONS.items() if len({str(of(group)) for group in groups}) > 1}
    shown -= {"config", "campaign"}
    if any(group.is_simulated for group in groups):
        shown.add("simulated")
    shown |= {name for name in _ALWAYS if any(_CONDITIONS[name](group) is not None for group in groups)}
    if any(group.experiment for group in groups):
        shown.add("experiment")
    for name in ("config", "campaign"):
        if len({tuple(str(_CONDITIONS[one](group)) for one in shown) for group in groups}) < len(groups):
            shown.add(name)
    return [name for name in _CONDITIONS if name in shown]


def _cycles(group: CampaignGroup) -> str:
    """And beside them what did not become one: five survivors are not five of five."""
    lost = [f"{n} {what}" for n, what in ((group.n_invalid, "invalid"), (group.n_failed, "failed")) if n]
    return f"{group.n_cycles} ({', '.join(lost)})" if lost else str(group.n_cycles)


def _known(value: object) -> str:
    return NOT_MEASURED if value is None else str(value)
