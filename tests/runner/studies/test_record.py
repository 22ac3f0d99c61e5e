"""A study file's results directory is its own: what may change between two runs, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from images.contract.scheduling import AdaptiveCycles
from images.contract.study import STUDY_FILE, StudyRecord
from runner.layout import Layout
from runner.studies import record as records
from runner.studies.adaptive import second_stage
from runner.studies.record import NotThisStudy
from runner.studies.settings import Adaptive, Retries
from runner.studies.study import Study
from tests.runner.sample_studies import experiment, study

RULE = Adaptive(min=5, max=9)


def claim(output: Path, wanted: Study, extend: bool, on_gpus: bool = False) -> StudyRecord | None:
    layout = Layout(output)
    layout.prepare()
    return records.claim(layout, wanted, extend, on_gpus)


def measured(output: Path, *names: str) -> None:
    """A result of each of these experiments."""
    for name in names:
        digest = experiment(name).config_hash[:8]
        (output / f"{name}-stub-{digest}-c001_2026-11-21T08-04-04Z").mkdir()


def from_file(*names: str, **settings: Any) -> Study:
    return study(*names, from_file=True, **settings)


def test_a_study_that_ran_is_its_directorys_own_and_goes_on_unchanged(tmp_path: Path) -> None:
    first = claim(tmp_path, from_file("a", "b"), extend=False)
    assert first == StudyRecord.load(tmp_path)
    measured(tmp_path, "a")
    assert claim(tmp_path, from_file("a", "b", retries=Retries(limit=9)), extend=False) == first


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (from_file("a", "b", "c"), "also 'c'"),
        (from_file("a", "b", cycles=5), "5 cycles instead of 3"),
    ],
)
def test_more_experiments_or_cycles_are_added_knowingly(tmp_path: Path, changed: Study, said: str) -> None:
    before = claim(tmp_path, from_file("a", "b"), extend=False)
    measured(tmp_path, "a", "b")
    with pytest.raises(NotThisStudy, match=f"has changed since it ran .*{said}.*--extend"):
        claim(tmp_path, changed, extend=False)
    assert StudyRecord.load(tmp_path) == before

    after = claim(tmp_path, changed, extend=True)

    assert after == StudyRecord.load(tmp_path)
    assert after is not None
    assert before is not None
    assert after.created == before.created
    assert len(after.experiments) == len(changed.experiments)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (from_file("a"), "without 'b'"),
        (from_file("a", "b", cycles=2), "2 cycles after 3"),
        (from_file("a", "b", seed=7), "seed was 42 and is 7"),
        (from_file("a", "b", placement="any"), "placement was block and is any"),
        (from_file("a", "b", order="sequential"), "order was shuffled and is sequential"),
        (from_file("a", "b", cycles=RULE), "another rule for its cycles"),
        (
            replace(from_file("a"), experiments=(experiment("a"), replace(experiment("c"), name="b"))),
            "another configuration under the name 'b'",
        ),
        (replace(from_file("a", "b"), name="other"), "belongs to study 'study', not to 'other'"),
        (study("a", "b"), "belongs to study 'study'"),
    ],
)
def test_what_would_mix_results_is_refused_whatever_is_asked(tmp_path: Path, changed: Study, said: str) -> None:
    before = claim(tmp_path, from_file("a", "b"), extend=False)
    measured(tmp_path, "a", "b")
    with pytest.raises(NotThisStudy, match=said):
        claim(tmp_path, changed, extend=True)
    assert StudyRecord.load(tmp_path) == before


def test_an_experiment_without_a_result_may_be_corrected_or_left_out_knowingly(tmp_path: Path) -> None:
    corrected = replace(from_file("a", "b"), experiments=(experiment("a"), replace(experiment("c"), name="b")))
    for changed, said in ((corrected, "another configuration under the name 'b'"), (from_file("a"), "without 'b'")):
        output = tmp_path / said
        claim(output, from_file("a", "b"), extend=False)
        measured(output, "a")
        with pytest.raises(NotThisStudy, match=f"{said}.*--extend"):
            claim(output, changed, extend=False)
        after = claim(output, changed, extend=True)
        assert after is not None
        assert [one.measurement_config_hash for one in after.experiments] == [
            one.config_hash for one in changed.experiments
        ]


def test_a_study_that_has_no_result_yet_may_be_changed_at_will(tmp_path: Path) -> None:
    claim(tmp_path, from_file("a", seed=1), extend=False)
    after = claim(tmp_path, from_file("b", seed=2), extend=False)
    assert after is not None
    assert (after.seed, [one.name for one in after.experiments]) == (2, ["b"])


def test_a_study_measured_on_gpus_does_not_go_on_without_them(tmp_path: Path) -> None:
    """As after a kernel update, whose driver is not loaded."""
    claim(tmp_path, from_file("a"), extend=False, on_gpus=True)
    measured(tmp_path, "a")
    with pytest.raises(NotThisStudy, match="it was measured on GPUs, and here are none to use"):
        claim(tmp_path, from_file("a"), extend=True, on_gpus=False)


def test_a_directory_in_which_another_study_has_only_begun_is_not_taken(tmp_path: Path) -> None:
    Layout(tmp_path).new_attempt("loose", 1, 1)
    with pytest.raises(NotThisStudy, match="study 'loose' is at work"):
        claim(tmp_path, from_file("a"), extend=False)
    assert not (tmp_path / STUDY_FILE).exists()


def test_a_directory_with_results_of_no_study_file_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "tiny-stub-0123abcd-c001_2026-11-21T08-04-04Z").mkdir()
    with pytest.raises(NotThisStudy, match="holds results that belong to no study file"):
        claim(tmp_path, from_file("a"), extend=True)
    assert not (tmp_path / STUDY_FILE).exists()
    assert claim(tmp_path, study("a"), extend=False) is None, "a run without a file may go where others are"


def test_a_damaged_record_is_one_line_and_stays(tmp_path: Path) -> None:
    (tmp_path / STUDY_FILE).write_text("{")
    with pytest.raises(NotThisStudy, match="not valid JSON"):
        claim(tmp_path, from_file("a"), extend=True)
    assert (tmp_path / STUDY_FILE).read_text() == "{"


def test_what_a_pilot_found_is_kept_and_closes_the_list_of_experiments(tmp_path: Path) -> None:
    whole = from_file("a", cycles=RULE)
    record = claim(tmp_path, whole, extend=False)
    measured(tmp_path, "a")
    assert record is not None
    found = second_stage(RULE, {whole.experiments[0]: [1.0, 1.1, 0.9, 1.0, 1.05]})
    record.model_copy(update={"cycles": found}).save(tmp_path)

    again = claim(tmp_path, whole, extend=False)

    assert again is not None
    assert isinstance(again.cycles, AdaptiveCycles)
    assert again.cycles == found
    with pytest.raises(NotThisStudy, match="the number of cycles was computed without it"):
        claim(tmp_path, from_file("a", "b", cycles=RULE), extend=True)
