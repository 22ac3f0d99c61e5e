"""A report is whole in what Kubernetes keeps of it, whatever is in it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from images.contract import files
from images.contract.report import LONGEST, JobReport

LONGEST_NAME = files.directory_name(["n" * 200, "vllm", "0a1b2c3d", "c001", "failed"], datetime(2026, 1, 2, tzinfo=UTC))
ID = files.new_experiment_id(datetime(2026, 1, 2, tzinfo=UTC))
TEXTS = {
    "latin": "the model needs more memory ",
    "german": "zu wenig Speicher f\u00fcr gr\u00f6\u00dfere Stapel ",
    "japanese": "\u30e1\u30e2\u30ea\u304c\u8db3\u308a\u307e\u305b\u3093",
    "emoji": "\U0001f525\U0001f9ef",
    "escaped": '"C:\\\\x" \x01\x1b[0m',
    "undecodable": "\udc80\udcff",
}


def saved(path: Path, **fields: Any) -> JobReport:
    """What is read of a report with the longest names after it was saved."""
    names = {"experiment_id": ID, "directory": f"{LONGEST_NAME}_999"}
    report = JobReport(outcome="interrupted", exit_code=125, **names, **fields)
    report.save(path)
    said = JobReport.parse(path.read_text(encoding="utf-8"))
    assert said is not None
    texts = {"message": "", "advice": ""}
    assert said.model_copy(update=texts) == report.model_copy(update=texts)
    return said


def test_names_and_numbers_leave_room_for_a_message(tmp_path: Path) -> None:
    saved(tmp_path / "report")
    assert (tmp_path / "report").stat().st_size <= 300


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("n_times", [1, 20, 1000])
def test_a_text_in_any_script_is_cut_to_what_is_kept(tmp_path: Path, text: str, n_times: int) -> None:
    message, advice = text * n_times, text * n_times
    said = saved(tmp_path / "report", message=message, advice=advice)

    size = (tmp_path / "report").stat().st_size
    whole = said.message == message.encode("utf-8", "replace").decode()
    assert size <= LONGEST
    assert message.encode("utf-8", "replace").decode().startswith(said.message)
    assert said.message
    assert whole or said.advice == "", "the advice goes before the message does"
    if n_times == 1000:
        assert size > LONGEST - 6, "no more is cut than must be"


def test_an_advice_is_cut_for_its_message(tmp_path: Path) -> None:
    said = saved(tmp_path / "report", message="m" * 100, advice="a" * 1000)
    assert said.message == "m" * 100
    assert set(said.advice) == {"a"}
    assert (tmp_path / "report").stat().st_size == LONGEST
