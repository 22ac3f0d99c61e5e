"""Sweeps: which points there are, what they are called, and what is wrong with a grid."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from images.contract.config import ExperimentConfig
from runner.studies.study import Experiment
from runner.studies.study_file import StudyInvalid, load_study


def experiments(folder: Path, text: str) -> tuple[Experiment, ...]:
    path = folder / "study.yaml"
    path.write_text(f"name: a\n{text}")
    return load_study(path).experiments


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(StudyInvalid) as caught:
        experiments(folder, text)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def names(folder: Path, text: str) -> list[str]:
    return [experiment.name for experiment in experiments(folder, text)]


def test_every_combination_is_a_point_and_a_backends_own_field_multiplies_only_its_points(tmp_path: Path) -> None:
    text = """\
defaults: {workload: {n_prompts: 50}, stub: {load_s: 3}, pytorch: {torch_compile: true}}
sweep:
  base: {dtype: float16}
  grid:
    batch_size: [1, 4]
    backend: [pytorch, stub]
    pytorch.attn_implementation: [eager, sdpa]
    measurement.energy: [auto]
"""
    points = experiments(tmp_path, text)
    assert [point.name for point in points] == [
        "batch_size=1,backend=pytorch,attn_implementation=eager",
        "batch_size=1,backend=pytorch,attn_implementation=sdpa",
        "batch_size=1,backend=stub",
        "batch_size=4,backend=pytorch,attn_implementation=eager",
        "batch_size=4,backend=pytorch,attn_implementation=sdpa",
        "batch_size=4,backend=stub",
    ]
    shared = {"workload": {"n_prompts": 50}, "dtype": "float16"}
    assert points[0].config == ExperimentConfig.model_validate(
        shared | {"batch_size": 1, "pytorch": {"torch_compile": True, "attn_implementation": "eager"}}
    )
    assert points[5].config == ExperimentConfig.model_validate(
        shared | {"batch_size": 4, "backend": "stub", "stub": {"load_s": 3}}
    )


def test_an_exclusion_takes_the_points_that_match_all_of_it(tmp_path: Path) -> None:
    text = """\
sweep:
  grid: {batch_size: [1, 4, 16], backend: [stub, pytorch], stub.noise: [0, 0.1]}
  exclude:
    - {batch_size: [4, 16], stub.noise: 0}
    - {backend: pytorch, batch_size: 1}
"""
    assert names(tmp_path, text) == [
        "batch_size=1,backend=stub,noise=0",
        "batch_size=1,backend=stub,noise=0.1",
        "batch_size=4,backend=stub,noise=0.1",
        "batch_size=4,backend=pytorch",
        "batch_size=16,backend=stub,noise=0.1",
        "batch_size=16,backend=pytorch",
    ]


def test_names_keep_as_much_of_a_path_as_tells_fields_apart(tmp_path: Path) -> None:
    text = "sweep: {name: w, grid: {measurement.warmup.enabled: [true], measurement.baseline.enabled: [true, false]}}\n"
    assert names(tmp_path, text) == ["w-enabled=true", "w-enabled=false"]
    text = "sweep: {grid: {measurement.warmup.enabled: [true, false], measurement.baseline.enabled: [true, false]}}\n"
    assert names(tmp_path, text)[1] == "warmup.enabled=true,baseline.enabled=false"
    text = "sweep: {grid: {model: [a/Llama-3.1-8B, ./b c/], batch_size: [1]}}\n".replace("./b c/", "b/a model")
    assert names(tmp_path, text) == ["model=Llama-3.1-8B", "model=a-model"]


def test_long_names_lose_field_names_of_text_values_and_then_end_in_the_hash(tmp_path: Path) -> None:
    text = """\
sweep:
  grid:
    backend: [pytorch, stub]
    batch_size: [1, 32]
    pytorch.attn_implementation: [sdpa, flash_attention_2]
"""
    assert names(tmp_path, text)[1] == "pytorch,batch_size=1,flash_attention_2"
    long = [f"{'x' * 70}{n}" for n in range(3)]
    points = experiments(tmp_path, f"sweep: {{grid: {{model: [{', '.join(long)}]}}}}\n")
    assert [point.name for point in points] == [f"{'x' * 51}-{point.config_hash[:8]}" for point in points]


def test_names_are_unique_also_where_two_sweeps_vary_the_same_field(tmp_path: Path) -> None:
    text = """\
experiments: [{name: seed=1, batch_size: 2}]
sweep:
  - {grid: {seed: [1, 2]}}
  - {base: {backend: stub}, grid: {seed: [2, 3]}}
"""
    points = experiments(tmp_path, text)
    assert [point.name for point in points] == [
        "seed=1",
        f"seed=1-{points[1].config_hash[:8]}",
        "seed=2",
        f"seed=2-{points[3].config_hash[:8]}",
        "seed=3",
    ]


def test_points_that_come_out_equal_are_kept_once(tmp_path: Path) -> None:
    text = "sweep:\n  - {grid: {seed: [1, 2, 1]}}\n  - {grid: {seed: [2, 3], batch_size: [8]}}\n"
    assert names(tmp_path, text) == ["seed=1", "seed=2", "seed=3"]


def test_a_value_may_be_a_section_and_a_free_option(tmp_path: Path) -> None:
    text = """\
sweep:
  base: {backend: vllm, vllm: {extra: {a: 1}}}
  grid:
    sampling: [{temperature: 0}, {temperature: 1, top_p: .9}]
    vllm.extra.b.c: [[1, 2], null]
  exclude: [{vllm.extra.b.c: [1, 2], sampling: {temperature: 0}}]
"""
    points = experiments(tmp_path, text)
    assert len(points) == 3
    last = points[1].config
    assert last.vllm is not None
    assert (last.sampling.top_p, last.vllm.extra) == (0.9, {"a": 1, "b": {"c": [1, 2]}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sweep: 5", "2:8: sweep: should be a mapping with a grid, got 5"),
        ("sweep: {}", "2:8: sweep: an empty grid; it takes fields with lists of values, such as batch_size: [1, 4]"),
        ("sweep: {grid: {}}", "2:15: sweep.grid: an empty grid; it takes fields with lists of values, such as "),
        ("sweep: {grid: {seed: []}}", "2:22: sweep.grid.seed: the list of values is empty"),
        ("sweep: {grid: {seed: 1}}", "2:22: sweep.grid.seed: should be a list of values, got 1"),
        ("sweep: {grid: {enabled: [true]}}", "2:16: sweep.grid.enabled: unknown key (did you mean 'measurement.warmup"),
        ("sweep: {grid: {seed: [1]}, excluded: []}", "2:28: sweep.excluded: unknown key (did you mean 'exclude'?)"),
        (
            "sweep: {grid: {seed: [1, 2]}, exclude: [{sed: 1}]}",
            "2:42: sweep.exclude[0].sed: the grid has no key 'sed' (did you mean 'seed'?)",
        ),
        (
            "sweep: {grid: {dtype: [auto, float16]}, exclude: [{dtype: [auto, flot16]}]}",
            "2:66: sweep.exclude[0].dtype[1]: the grid has no value \"flot16\" of 'dtype' (did you mean 'float16'?)",
        ),
        (
            "sweep: {grid: {seed: [1, 2], workload.ignore_eos: [true, false]}, exclude: [{seed: true}]}",
            "2:84: sweep.exclude[0].seed: the grid has no value true of 'seed' (its values: 1, 2)",
        ),
        (
            "sweep: {grid: {backend: [stub, vllm], stub.noise: [0]}, exclude: [{stub.noise: 0, backend: vllm}]}",
            "2:67: sweep.exclude[0]: no point of the sweep matches this exclusion",
        ),
        (
            "sweep: {grid: {seed: [1, 2]}, exclude: [{seed: 1}, {seed: 2}]}",
            "2:40: sweep.exclude: the exclusions leave none of the sweep's 2 points",
        ),
        (
            "sweep: {grid: {seed: [1]}, exclude: [{}]}",
            "2:38: sweep.exclude[0]: should be a mapping of keys of the grid",
        ),
        (
            "sweep: {grid: {seed: [1], vllm.enforce_eager: [true]}}",
            "2:27: sweep.grid.vllm.enforce_eager: no point of this sweep has backend 'vllm'",
        ),
        (
            f"sweep: {{grid: {{seed: {list(range(400))}, batch_size: {list(range(1, 400))}}}}}",
            "2:15: sweep.grid: 159,600 combinations are more than the 100,000 a sweep can have",
        ),
    ],
)
def test_a_bad_sweep_gets_one_clear_line(tmp_path: Path, text: str, expected: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(f"study.yaml:{expected}")


def test_a_bad_value_is_said_once_at_the_value_and_a_broken_rule_with_the_points_that_break_it(tmp_path: Path) -> None:
    text = """\
sweep:
  base: {workload: {n_prompts: 2}, pytorch: {torch_compil: true}}
  grid:
    seed: [1, 2, 3, 4, -5]
    backend: [stub, vllm]
    num_processes: [1, 4]
    measurement.methodology: [total, windowed]
"""
    assert problems(tmp_path, text) == [
        "study.yaml:3:3: sweep: workload.n_prompts (2) is below num_processes (4), so some process would have "
        "nothing to do (point seed=1,backend=stub,num_processes=4,methodology=total and 11 more)",
        "study.yaml:3:3: sweep: methodology windowed needs a time stamp on every token, which backend 'vllm' gives "
        "with vllm.token_times: true; set that, or methodology: total (point seed=1,backend=vllm,num_processes=1,"
        "methodology=windowed and 7 more)",
        "study.yaml:3:46: sweep.base.pytorch.torch_compil: unknown key (did you mean 'torch_compile'?)",
        "study.yaml:5:24: sweep.grid.seed[4]: should be greater than or equal to 0, got -5",
    ]


NAMEABLE = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=80)


@given(values=st.lists(NAMEABLE.filter(lambda text: not text.startswith(("/", "./", "../", "~"))), min_size=1))
@settings(max_examples=50, deadline=None)
def test_names_are_unique_and_fit_for_a_folder_whatever_the_values_are(
    tmp_path_factory: pytest.TempPathFactory, values: list[str]
) -> None:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    folder = tmp_path_factory.mktemp("study")
    try:
        points = experiments(folder, f"sweep: {{grid: {{model: [{quoted}]}}}}\n")
    except StudyInvalid as error:
        assume("does not allow" not in str(error))  # a sign that no YAML file may hold
        raise
    found = [point.name for point in points]
    assert len(set(found)) == len(set(values))
    assert all(re.fullmatch(r"[A-Za-z0-9._=,+-]{1,60}", name) for name in found)


def test_two_thousand_points_are_made_in_seconds(tmp_path: Path) -> None:
    text = f"""\
defaults: {{measurement: {{warmup: {{enabled: false}}}}}}
sweep:
  grid:
    seed: {list(range(50))}
    batch_size: {list(range(1, 21))}
    pytorch.attn_implementation: [eager, sdpa]
  exclude: [{{seed: 3, batch_size: 4}}]
"""
    started = time.process_time()
    assert len(experiments(tmp_path, text)) == 1998
    assert time.process_time() - started < 2
