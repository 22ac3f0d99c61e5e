"""study.json: it comes back as it was written, and a damaged one is told from none."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from images.contract.files import UnreadableResult
from images.contract.scheduling import AdaptiveCycles, PilotEstimate
from images.contract.study import STUDY_FILE, ExperimentRecord, StudyRecord
from tests.images.contract import make, strategies

RULE = AdaptiveCycles(
    metric="energy_per_output_token_j",
    half_width=0.02,
    confidence=0.95,
    min=5,
    max=30,
    pilot=[PilotEstimate(experiment="b4", measurement_config_hash="ab" * 8, mean=0.5, s=0.01, n_required=8)],
    n=8,
    outcome="reached",
)
RECORD = StudyRecord(
    name="batch-sizes",
    created=make.OPEN,
    seed=42,
    order="shuffled",
    on_gpus=True,
    placement="block",
    cycles=RULE,
    experiments=[ExperimentRecord(name="b4", measurement_config_hash="ab" * 8, config={"batch_size": 4})],
)


@settings(deadline=None, max_examples=30)
@given(strategies.records(StudyRecord))
def test_a_record_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, record: StudyRecord) -> None:
    output = tmp_path_factory.mktemp("results")
    record.save(output)
    assert StudyRecord.load(output) == record
    assert [path.name for path in output.iterdir()] == [STUDY_FILE]


def test_the_rule_of_adaptive_cycles_comes_back_with_its_pilot(tmp_path: Path) -> None:
    RECORD.save(tmp_path)
    loaded = StudyRecord.load(tmp_path)
    assert loaded is not None
    assert loaded.cycles == RULE


def test_a_folder_without_a_study_file_has_no_record(tmp_path: Path) -> None:
    assert StudyRecord.load(tmp_path) is None
    assert StudyRecord.load(tmp_path / "not there") is None


def test_every_cut_of_a_record_is_damage_that_names_the_file(tmp_path: Path) -> None:
    whole = RECORD.model_dump_json()
    for length in range(0, len(whole), 7):
        (tmp_path / STUDY_FILE).write_text(whole[:length])
        with pytest.raises(UnreadableResult, match=STUDY_FILE):
            StudyRecord.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": "2"}, "schema_version: "),
        ({"order": "alphabetical"}, "order: "),
        ({"cycles": "many"}, "cycles"),
        ({"experiments": [{"name": "b4"}]}, "experiments.0.measurement_config_hash: "),
        ({"created": None}, "created: "),
    ],
)
def test_a_record_that_does_not_fit_is_one_line_that_names_the_field(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    (tmp_path / STUDY_FILE).write_text(json.dumps(RECORD.model_dump(mode="json") | change))
    with pytest.raises(UnreadableResult, match="does not fit the schema") as caught:
        StudyRecord.load(tmp_path)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_in_its_place_is_damage_and_not_a_missing_record(tmp_path: Path) -> None:
    (tmp_path / STUDY_FILE).mkdir()
    with pytest.raises(UnreadableResult):
        StudyRecord.load(tmp_path)


def test_a_record_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RECORD.save(tmp_path)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        RECORD.model_copy(update={"name": "other"}).save(tmp_path)
    assert StudyRecord.load(tmp_path) == RECORD
    assert [path.name for path in tmp_path.iterdir()] == [STUDY_FILE]
