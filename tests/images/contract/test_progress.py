"""progress.json as the runner reads it while a job writes it: the last report, or None, and never an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings

from images.contract.progress import JobProgress
from tests.images.contract import strategies
from tests.images.contract.make import OPEN

FULL = JobProgress(phase="window", time=OPEN, output_tokens=512, output_tokens_per_second=91.5, power_w=312.25)


@settings(deadline=None, max_examples=30)
@given(strategies.records(JobProgress))
def test_a_report_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, report: JobProgress) -> None:
    path = tmp_path_factory.mktemp("attempt") / "progress.json"
    report.save(path)
    assert JobProgress.load(path) == report
    assert [file.name for file in path.parent.iterdir()] == ["progress.json"]


def test_a_report_of_a_phase_alone_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    path.write_text('{"phase": "load", "time": "2026-03-01T12:00:00+00:00", "of_a_newer_job": 1}')
    assert JobProgress.load(path) == JobProgress(phase="load", time=OPEN)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00" * 200,
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"phase": "load"}',
        b'{"phase": 3, "time": "2026-03-01T12:00:00Z"}',
        b'{"phase": "load", "time": "soon"}',
        b'{"phase": "load", "time": 1e300}',
        b'{"phase": "load", "time": "2026-03-01T12:00:00Z", "power_w": NaN}',
        b'{"phase": "load", "time": "2026-03-01T12:00:00Z", "output_tokens": 1.5}',
        b'{"phase": "load", "time": "2026-03-01T12:00:00Z", "output_tokens": ' + b"1" * 5000 + b"}",
    ],
)
def test_garbage_is_no_report_and_no_error(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "progress.json"
    path.write_bytes(garbage)
    assert JobProgress.load(path) is None


def test_every_cut_of_a_report_is_no_report(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    whole = json.dumps(FULL.model_dump(mode="json"))
    for length in range(len(whole)):
        path.write_text(whole[:length])
        assert JobProgress.load(path) is None


def test_no_file_or_a_folder_in_its_place_is_no_report(tmp_path: Path) -> None:
    assert JobProgress.load(tmp_path / "progress.json") is None
    assert JobProgress.load(tmp_path) is None
