"""The report on paper: nothing cut off, everything said that a list or a box says on a screen."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.warehouse.report.opened import PICTURES, NewPage, Opened

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

# Of A4 between its margins (px).
_PAGES = {"portrait": (703, 1032), "landscape": (1032, 703)}
_TOO_WIDE = """
() => [...document.querySelectorAll('table, figure, .chart svg')].filter(
  element => element.getBoundingClientRect().right > innerWidth + 1).map(element => element.outerHTML.slice(0, 120))
"""
_SIZES = "Object.values(views).map(view => [view.width(), view.height()])"
_SIZE = "element => parseFloat(getComputedStyle(element).fontSize)"


@pytest.mark.parametrize("page_is", _PAGES)
def test_nothing_is_cut_off_and_secondary_text_is_smaller(new_page: NewPage, report: Path, page_is: str) -> None:
    opened = Opened(new_page(), report)
    page = opened.page
    page.locator("#theme").click()
    on_screen = page.evaluate(_SIZES)
    page.pdf(path=PICTURES / f"print-{page_is}.pdf", format="A4", landscape=page_is == "landscape")
    width, height = _PAGES[page_is]
    # All of it, so that the picture needs no other size: a chart goes by the window's.
    page.set_viewport_size({"width": width, "height": 4500 if page_is == "portrait" else height})
    page.emulate_media(media="print")
    page.evaluate("new Promise(requestAnimationFrame).then(() => dispatchEvent(new Event('beforeprint')))")
    page.screenshot(path=PICTURES / f"print-{page_is}.png")
    assert page.evaluate(_TOO_WIDE) == []
    assert page.locator("#rows tbody tr").count() == 40
    for below in ("#rows td .below", "#rows th .below", "#best .interval", "#best td .soft"):
        text = page.locator(below).first
        assert text.evaluate(_SIZE) < text.locator("xpath=ancestor::*[self::td or self::th]").evaluate(_SIZE)
    drawn = page.locator("#c-energy svg").bounding_box()
    assert drawn is not None
    scale = drawn["width"] / page.evaluate("views.energy.width()")
    assert 12 * scale > 7, "letters that can be read (px)"

    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(_SIZES) == on_screen
    assert page.evaluate("updating.then(() => views.energy.signal('dark'))") is True
    assert opened.wrong == []


def test_paper_says_what_was_chosen(new_page: NewPage, report: Path) -> None:
    opened = Opened(new_page(), report)
    page = opened.page
    assert not page.locator("#choice").is_visible()
    page.locator("#filters").get_by_role("checkbox", name="vllm").check()
    page.get_by_label("Find").fill("batch")
    for at in (0, 1):
        page.locator("#rows tbody input").nth(at).check()
    page.locator("#rank-by").select_option("speed")
    page.locator("#work").select_option(index=1)
    page.locator("#trace").select_option(index=2)
    ticked = page.locator("#rows tbody tr th > bdi:first-child").all_text_contents()[:2]
    run = page.evaluate("document.getElementById('trace').selectedOptions[0].textContent")
    expect(page.locator("#choice")).to_have_text(
        'Shown: 20 of 40 configurations, 100 of 200 cycles; backend vllm; found by "batch"; '
        f"by configuration only what is ticked: {', '.join(ticked)}"
    )
    assert page.locator("#choice").is_visible(), "on a screen, too, where something is chosen"
    advice = page.get_by_text("Tick rows to draw these alone")
    assert advice.is_visible()
    page.emulate_media(media="print")
    assert not advice.is_visible()
    for name, said in (
        ("rank-by", "Order by: output tokens/s, most first; 1 to 2 of 2 ticked"),
        ("work", "Work: org/large-8b, 40 prompts, at most 10 output tokens - 20 configurations"),
        ("trace", f"Run: {run}"),
    ):
        assert not page.locator(f"#{name}").is_visible()
        expect(page.locator(f"[data-said={name}]")).to_have_text(said)
        assert page.locator(f"[data-said={name}]").is_visible()
