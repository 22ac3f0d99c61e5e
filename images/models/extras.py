"""What may stand in an engine's own options that are passed on untouched: nothing that is said elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from images.contract.job import ConfigInvalid


def refuse_doubles(
    section: str, own: Mapping[str, str], extra: Mapping[str, Any], needed: Collection[str] = ()
) -> None:
    """`extra` may not override what has a field of its own: the result would name the wrong setting.

    Args:
        section: where `extra` stands in the configuration, such as trt.extra.
        own: by the engine's name the field that says it.
        needed: the engine's names of what the measurement sets.

    Raises:
        ConfigInvalid: one of these is in `extra`.
    """
    for name in sorted(own.keys() & extra.keys()):
        raise ConfigInvalid(f"{section}.{name} has a field of its own.", f"Set {own[name]} instead.")
    for name in sorted(extra.keys() & set(needed)):
        raise ConfigInvalid(f"{section}.{name} is set by joulehouse, which measures with it.", "Remove it.")
