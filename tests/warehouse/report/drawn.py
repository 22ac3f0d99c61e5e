"""What a chart has really drawn, in the units of its axes, whatever its specification says."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Page

_MARKS = """
name => {
  const view = views[name], found = [];
  const back = (axis, place) => {
    const scale = view.scale(axis);
    return place === undefined || !scale.invert ? null : Number(scale.invert(place));
  };
  const walk = item => {
    if (/^(axis|legend|title)/.test(item.role || '')) return;
    if (item.role === 'mark' && item.marktype !== 'group') for (const one of item.items) {
      // Of a rectangle the scene has its width.
      const right = item.marktype === 'rect' ? one.x + (one.width || 0) : one.x2;
      found.push({
        kind: item.marktype, x: back('x', one.x), x2: back('x', right), y: back('y', one.y), y2: back('y', one.y2),
        shape: one.shape ?? null, width: one.strokeWidth ?? null, of: one.datum ?? {},
      });
    }
    (item.items || []).forEach(walk);
  };
  walk(view.scenegraph().root);
  return JSON.parse(JSON.stringify(found));
}
"""
_DASHED = "name => document.querySelector(`#c-${name} path[stroke-dasharray]`).getAttribute('d')"
_BACK = (
    "([name, places]) => places.map(([x, y]) => [views[name].scale('x').invert(x), views[name].scale('y').invert(y)])"
)


def marks(page: Page, chart: str, kind: str) -> list[dict[str, Any]]:
    """Every mark of a kind (rule, symbol, rect): from ``x`` to ``x2`` and ``y`` to ``y2``; ``of`` is its row."""
    return [one for one in page.evaluate(_MARKS, chart) if one["kind"] == kind]


def corners(page: Page, chart: str) -> list[tuple[float, float]]:
    """Of the dashed line of a chart, where it turns."""
    path = re.findall(r"([ML])([-\d.]+),([-\d.]+)", page.evaluate(_DASHED, chart))
    places = [(float(x), float(y)) for _, x, y in path]
    return [(x, y) for x, y in page.evaluate(_BACK, [chart, places])]
