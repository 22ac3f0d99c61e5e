"""Text and marks can be told from what they stand on, and from each other, in light and dark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from math import dist
from pathlib import Path
from typing import Any

import pytest

import warehouse.report
from images.contract.config import BACKENDS
from warehouse.report.theme import CARD, DARK, INK, LIGHT, SHAPES, SOFT, backend_colour, backend_shape, ordered_backends

_STYLE = (Path(str(warehouse.report.__file__)).parent / "page.css").read_text(encoding="utf-8")
_ENOUGH = 4.5
"""WCAG 2.2, 1.4.3, of text; marks need 3."""
# Matrices of Machado, Oliveira and Fernandes (2009), table 1, severity 1.0, for linear sRGB.
_SEEN_AS = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}
_APART = 9.5
"""CIE 1976 colour difference; 2.3 is just noticeable. Shapes tell the backends apart as well."""


def contrast(one: str, other: str) -> float:
    """By the relative luminance of WCAG 2.2."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = _linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(colour: str) -> list[float]:
    """Red, green and blue from 0 to 1, without the gamma of sRGB."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def _lab(linear: Sequence[float]) -> tuple[float, float, float]:
    """CIELAB under D65 (CIE 15)."""
    to_xyz = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.072175), (0.0193339, 0.119192, 0.9503041))
    white = (0.95047, 1, 1.08883)
    x, y, z = (
        part ** (1 / 3) if part > (6 / 29) ** 3 else part / (3 * (6 / 29) ** 2) + 4 / 29
        for part in (value / full for value, full in zip(_times(to_xyz, linear), white, strict=True))
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _times(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [sum(factor * part for factor, part in zip(row, vector, strict=True)) for row in matrix]


def _difference(one: str, other: str, deficiency: str) -> float:
    seen = [_lab([min(max(part, 0), 1) for part in _times(_SEEN_AS[deficiency], _linear(it))]) for it in (one, other)]
    return dist(*seen)


def _variables(selector: str) -> dict[str, str]:
    block = re.search(re.escape(selector) + r" \{(.*?)\}", _STYLE, flags=re.DOTALL)
    assert block is not None
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block[1]))


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(("colours", "background"), [(LIGHT, CARD[0]), (DARK, CARD[1])])
def test_marks_stand_out(colours: tuple[str, ...], background: str) -> None:
    assert min(contrast(one, background) for one in colours) >= _ENOUGH


@pytest.mark.parametrize("deficiency", _SEEN_AS)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_no_two_colours_look_alike_to_the_colour_blind(colours: tuple[str, ...], deficiency: str) -> None:
    alike = [pair for pair in combinations(colours, 2) if _difference(*pair, deficiency) < _APART]
    assert alike == []


def test_the_colours_that_are_confused_most_are_found_alike() -> None:
    assert _difference("#c00000", "#5a5a00", "protanopia") < _difference("#c00000", "#5a5a00", "tritanopia") / 3


@pytest.mark.parametrize("selector", [":root", ":root[data-theme=dark]"])
def test_text_stands_out(selector: str) -> None:
    found = _variables(selector)
    pairs = [(text, under) for text in ("ink", "soft", "accent") for under in ("page", "card", "shade")]
    pairs += [("heed", "heed-card"), ("heed", "page"), ("on-accent", "accent")]
    weak = [pair for pair in pairs if contrast(found[pair[0]], found[pair[1]]) < _ENOUGH]
    assert weak == []


def test_charts_and_page_have_the_same_colours() -> None:
    for at, selector in enumerate((":root", ":root[data-theme=dark]")):
        found = _variables(selector)
        assert (found["ink"], found["soft"], found["card"]) == (INK[at], SOFT[at], CARD[at])


def test_both_ways_into_the_dark_are_the_same() -> None:
    assert _variables(":root[data-theme=dark]") == _variables(":root:not([data-theme=light])")


def _look(backends: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and shape of each."""
    colour: Any = backend_colour(backends).to_dict()
    shape: Any = backend_shape(backends).to_dict()
    pairs = zip(colour["scale"]["range"], shape["scale"]["range"], strict=True)
    return [(one["expr"], other) for one, other in pairs]


def test_every_backend_has_a_shape_of_its_own() -> None:
    assert len(set(SHAPES[: len(BACKENDS)])) == len(BACKENDS)


def test_a_known_backend_looks_the_same_in_every_report() -> None:
    every = dict(zip(BACKENDS, _look(BACKENDS), strict=True))
    for known in combinations(BACKENDS, 2):
        assert _look([*known, "echo"])[:2] == [every[one] for one in known]
        assert _look([*known, "echo"])[2] == _look([*BACKENDS, "echo"])[-1]


@pytest.mark.parametrize("n_known", range(len(BACKENDS) + 1))
def test_no_two_of_eight_backends_look_the_same(n_known: int) -> None:
    for known in combinations(BACKENDS, n_known):
        backends = ordered_backends([*known, *(f"engine{at}" for at in range(8 - n_known))])
        assert len(set(_look(backends))) == len(backends) == 8
