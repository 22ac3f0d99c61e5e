from __future__ import annotations

import time

import pytest

from tests.images.harness.fakes import CLOCK, Clock


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time in these tests passes only where a fake lets it pass, so every figure is exact."""
    monkeypatch.setattr(time, "perf_counter", CLOCK)
    return CLOCK
