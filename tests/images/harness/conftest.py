from __future__ import annotations

import time

import pytest

from tests.images.harness.fakes import CLOCK, Clock


@pytest.fixture(autouse=True)
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time in these tests passes only where a fake lets it pass, so every figure is exact.

    A simulated GPU brings a clock of its own.
    """
    if not {"gpu_node", "virtual_node"}.isdisjoint(request.fixturenames):
        return CLOCK
    monkeypatch.setattr(time, "perf_counter", CLOCK)
    return CLOCK
