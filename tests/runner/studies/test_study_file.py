"""Study files: all errors at once, each at its place; and what a valid one becomes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from images.contract.config import ExperimentConfig
from images.contract.job import ExitCode
from runner.studies.settings import Adaptive
from runner.studies.study import Study
from runner.studies.study_file import StudyInvalid, load_study


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "study.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems(folder: Path, text: str | bytes) -> list[str]:
    """Without the folder in front."""
    with pytest.raises(StudyInvalid) as caught:
        load_study(write(folder, text))
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def study(folder: Path, text: str) -> Study:
    return load_study(write(folder, text))


EVERYTHING = """\
name: ../results
cycles: {min: 5, max: 20, metrc: energy_per_output_token_j}
seed: "42"
order: shufled
launcher: {max_paralel: 2, exclusive: yes}
timeouts:
retrys: {}
defaults:
  model: ./nowhere
  vllm: {quantisation: awq}
  measurement: {warmup: {max_rounds: 1}}
experiments:
  - {name: a, backend: pytorch, batchsize: 4, num_processes: 200}
  - {name: a, backend: pytroch, dtype: flot16}
  - backend: stub
    pytorch: {atn_implementation: eager}
    workload: {n_prompts: 1e3, source: buitlin}
    batch_size: "8"
    batch_size: 9
  - five
sweep:
  grid:
    batch_size: [1, "4"]
    wrkload.n_prompts: [1]
"""


def test_all_errors_of_a_file_are_said_at_once_in_its_order(tmp_path: Path) -> None:
    assert problems(tmp_path, EVERYTHING) == [
        "study.yaml:1:7: name: '../results' is no name: letters, digits, spaces and . _ -, a letter, digit or _ first, "
        "no space last, at most 60 characters",
        "study.yaml:2:27: cycles.metrc: unknown key (did you mean 'metric'?)",
        'study.yaml:3:7: seed: should be a valid integer, got "42" (without quotes)',
        "study.yaml:4:8: order: should be 'shuffled', 'interleaved' or 'sequential', got \"shufled\" "
        "(did you mean 'shuffled'?)",
        "study.yaml:5:12: launcher.max_paralel: unknown key (did you mean 'max_parallel'?)",
        'study.yaml:5:39: launcher.exclusive: should be a valid boolean, got "yes" (write true)',
        "study.yaml:6:10: timeouts: should be a mapping, got nothing",
        "study.yaml:7:1: retrys: unknown key (did you mean 'retries'?)",
        "study.yaml:9:10: defaults.model: the model folder nowhere is not there",
        "study.yaml:10:10: defaults.vllm.quantisation: unknown key (did you mean 'quantization'?)",
        "study.yaml:11:25: defaults.measurement.warmup: max_rounds (1) is below window (3), so it can never be steady",
        "study.yaml:13:5: experiments[0]: workload.n_prompts (100) is below num_processes (200), so some process would "
        "have nothing to do",
        "study.yaml:13:33: experiments[0].batchsize: unknown key (did you mean 'batch_size'?)",
        "study.yaml:14:5: experiments[1]: the name 'a' is that of experiments[0] (line 13)",
        "study.yaml:14:24: experiments[1].backend: should be 'pytorch', 'vllm', 'trt' or 'stub', got \"pytroch\" "
        "(did you mean 'pytorch'?)",
        "study.yaml:14:40: experiments[1].dtype: should be 'auto', 'float32', 'float16' or 'bfloat16', got \"flot16\" "
        "(did you mean 'float16'?)",
        "study.yaml:16:5: experiments[2].pytorch: belongs to another backend; this experiment's backend is 'stub'. "
        "Remove it, or set backend: pytorch",
        "study.yaml:16:15: experiments[2].pytorch.atn_implementation: unknown key "
        "(did you mean 'attn_implementation'?)",
        "study.yaml:17:27: experiments[2].workload.n_prompts: should be a valid integer, got 1000.0",
        "study.yaml:17:40: experiments[2].workload.source: the prompt file buitlin cannot be read "
        "(No such file or directory) (did you mean 'builtin'?)",
        'study.yaml:18:17: experiments[2].batch_size: should be a valid integer, got "8" (without quotes)',
        "study.yaml:19:5: experiments[2].batch_size: the key 'batch_size' is already at line 18",
        'study.yaml:20:5: experiments[3]: should be a mapping of configuration fields, got "five"',
        'study.yaml:23:21: sweep.grid.batch_size[1]: should be a valid integer, got "4" (without quotes)',
        "study.yaml:24:5: sweep.grid.wrkload.n_prompts: unknown key (did you mean 'workload.n_prompts'?)",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty"),
        ("# nothing but this\n", "1:1: the file is empty"),
        ("- a\n", '1:1: should be a mapping with name, cycles and experiments, got ["a"]'),
        ("name: a\ncycles:\n\tmin: 5\n", "3:1: a tab; YAML is indented with spaces"),
        (b"name: \xc3\xa4\xff\n", "1:8: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("name: a\nseed: \x00\n", "2:7: a character that YAML does not allow (U+0000)"),
        ("name: @a\n", "1:7: a value that begins with @ has to be in quotes"),
        ("name: [a\n", "2:1: not YAML: did not find expected ',' or ']' (while parsing a flow sequence)"),
        ("name: a\nseed: *b\n", "2:7: not YAML: found undefined alias"),
        ("name: a\n---\nname: b\n", "2:1: a second document begins here; a study file holds one"),
        ("name: a\n", "1:1: no experiments at all; write them under 'experiments' or 'sweep'"),
        ("name: a\nexperiments: []\n", "2:14: experiments: no experiments at all; write them under "),
        ("name: a\nexperiments: {}\n", "2:14: experiments: should be a list, got {}"),
        ("experiments: [{}]\n", "1:1: 'name' is missing"),
        ("name: a\nname: b\nexperiments: [{}]\n", "2:1: name: the key 'name' is already at line 1"),
        ("name: 5\nexperiments: [{}]\n", "1:7: name: should be a valid string, got 5 (put it in quotes)"),
        ("name: a\ncycles: 0\nexperiments: [{}]\n", "2:9: cycles: should be greater than or equal to 1, got 0"),
        (
            "name: a\ncycles: many\nexperiments: [{}]\n",
            "2:9: cycles: should be a whole number or {min: 5, max: 30, ...}",
        ),
        ("name: a\ncycles: {max: 5, min: 6}\nexperiments: [{}]\n", "2:9: cycles: max (5) is below min (6)"),
        ("name: a\nx: &x [*x]\nexperiments: [{}]\n", "2:4: x[0]: an alias of what it is inside of"),
        ("name: a\nexperiments: [{<<: 5}]\n", "2:20: experiments[0].<<: << takes a mapping, or a list of them"),
        ("name: a\nexperiments: [{1: 5}]\n", "2:16: experiments[0]: '1' is not a name; a key that is not text"),
        ("name: a\nexperiments: [{seed: !!int q}]\n", "2:22: experiments[0].seed: 'q' is no int"),
        ("name: !!python/name:os.system a\nexperiments: [{}]\n", "1:7: name: the tag tag:yaml.org,2002:python/name:os"),
        (
            "name: a\nexperiments: [{model: \u00e4\U0001f525, seed: x}]\n",
            "2:33: experiments[0].seed: should be a valid int",
        ),
        ("name: a\nexperiments: [{backend: null}]\n", "2:25: experiments[0].backend: should be 'pytorch'"),
        (
            "name: a\nexperiments: [{stub.window_s: 1}]\n",
            "2:16: experiments[0].stub.window_s: unknown key (did you mean ",
        ),
        ('name: a\nexperiments: [{name: "a\\e[31m"}]\n', "2:22: experiments[0].name: 'a\\x1b[31m' is no name"),
    ],
)
def test_a_bad_file_gets_one_clear_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    found = problems(tmp_path, text)
    assert [problem for problem in found if problem.startswith(f"study.yaml:{expected}")], found
    assert all(problem.isprintable() for problem in found)


def test_what_is_no_file_is_said_and_ends_with_the_exit_code_of_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(StudyInvalid, match="no such file") as caught:
        load_study(tmp_path / "none.yaml")
    assert caught.value.exit_code is ExitCode.CONFIG_INVALID
    with pytest.raises(StudyInvalid, match="a folder, not a study file"):
        load_study(tmp_path)


def test_the_error_itself_is_one_line_with_the_only_problem_or_their_number(tmp_path: Path) -> None:
    with pytest.raises(StudyInvalid) as caught:
        load_study(write(tmp_path, "name: 5\nseed: x\nexperiments: [{}]\n"))
    assert str(caught.value) == f"{tmp_path}/study.yaml has 2 errors. Correct the study file and run again."
    with pytest.raises(StudyInvalid, match=r"study.yaml:1:7: name: should be a valid string, got 5"):
        load_study(write(tmp_path, "name: 5\nexperiments: [{}]\n"))


def test_a_few_lines_of_aliases_cannot_fill_the_memory(tmp_path: Path) -> None:
    lines = ["name: a", "x-0: &a0 [1, 2]"]
    lines += [f"x-{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    assert any("aliases stand for more" in problem for problem in problems(tmp_path, "\n".join(lines)))


def test_deep_nesting_is_an_error_and_no_crash(tmp_path: Path) -> None:
    text = "name: a\nexperiments: [{stub: {extra: {a: " + "[" * 3000 + "]" * 3000 + "}}, backend: stub}]\n"
    assert any("nested more than 50 levels deep" in problem for problem in problems(tmp_path, text))


def test_plain_values_are_read_by_yaml_1_2(tmp_path: Path) -> None:
    text = """\
name: a
experiments:
  - backend: stub
    workload: {chat_template: off}
    stub: {window_s: 1e-3, extra: {a: yes, b: 012, c: 1_0, d: 0x1F, e: ~}}
"""
    (only,) = study(tmp_path, text).experiments
    assert only.config.workload.chat_template == "off"
    assert only.config.stub is not None
    assert only.config.stub.window_s == 0.001
    assert only.config.stub.extra == {"a": "yes", "b": 12, "c": "1_0", "d": 31, "e": None}


def test_anchors_and_merge_keys_work_and_what_is_written_here_wins(tmp_path: Path) -> None:
    text = """\
name: a
x-one: &one {seed: 1, batch_size: 1}
x-two: &two {seed: 2, num_processes: 2}
experiments:
  - {<<: [*one, *two], batch_size: 3}
  - *two
"""
    first, second = study(tmp_path, text).experiments
    assert (first.config.seed, first.config.batch_size, first.config.num_processes) == (1, 3, 2)
    assert (second.config.seed, second.config.num_processes) == (2, 2)


def test_an_error_behind_an_alias_is_said_once_where_it_is_written(tmp_path: Path) -> None:
    text = "name: a\nx-w: &w {n_promts: 5}\nexperiments:\n  - {workload: *w}\n  - {seed: 2, workload: *w}\n"
    assert problems(tmp_path, text) == ["study.yaml:2:10: x-w.n_promts: unknown key (did you mean 'n_prompts'?)"]


def test_defaults_are_merged_below_every_experiment_with_its_own_backends_section_only(tmp_path: Path) -> None:
    text = """\
name: a
defaults:
  workload: {n_prompts: 50, max_output_tokens: 9}
  stub: {window_s: 2, extra: {a: 1}}
  vllm: {enforce_eager: true}
experiments:
  - {backend: stub, workload: {n_prompts: 7}, stub: {extra: {b: 2}}}
  - {backend: vllm}
  - {}
"""
    stub, vllm, pytorch = (experiment.config for experiment in study(tmp_path, text).experiments)
    assert stub == ExperimentConfig.model_validate(
        {
            "backend": "stub",
            "workload": {"n_prompts": 7, "max_output_tokens": 9},
            "stub": {"window_s": 2, "extra": {"a": 1, "b": 2}},
        }
    )
    assert vllm.vllm is not None
    assert vllm.vllm.enforce_eager is True
    assert (pytorch.backend, pytorch.vllm, pytorch.workload.n_prompts) == ("pytorch", None, 50)


def test_one_configuration_under_two_names_is_an_error_that_names_both(tmp_path: Path) -> None:
    text = """\
name: a
experiments:
  - {name: one, seed: 1}
  - {name: two, seed: 1, batch_size: 8}
sweep: {grid: {seed: [1, 2]}}
"""
    assert problems(tmp_path, text) == [
        "study.yaml:3:5: experiments[0]: the same configuration as point seed=1 of the sweep at line 5; leave one out",
        "study.yaml:4:5: experiments[1]: the same configuration as experiments[0] (line 3); leave one out, repetitions "
        "are cycles",
    ]


def test_local_files_are_found_from_the_study_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    text = "name: a\nexperiments: [{model: ./model, workload: {source: prompts.jsonl}}]\n"
    write(tmp_path, text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (only,) = load_study(Path("../study.yaml")).experiments
    assert only.config.model_path is not None
    assert only.config.prompt_file is not None
    assert only.config.model_path.is_absolute()
    assert only.config.prompt_file.samefile(tmp_path / "prompts.jsonl")
    assert only.config_hash == only.config.measurement_config_hash()


def test_a_missing_file_is_said_once_however_many_experiments_want_it(tmp_path: Path) -> None:
    text = "name: a\nexperiments:\n" + "".join(f"  - {{seed: {n}, workload: {{source: p.jsonl}}}}\n" for n in range(5))
    assert problems(tmp_path, text) == [
        "study.yaml:3:34: experiments[0].workload.source: the prompt file p.jsonl cannot be read "
        "(No such file or directory)"
    ]


def test_a_rule_is_not_said_to_be_broken_because_a_misspelt_field_was_left_out(tmp_path: Path) -> None:
    text = "name: a\nexperiments: [{num_processes: 200, workload: {n_promts: 500}}]\n"
    assert problems(tmp_path, text) == [
        "study.yaml:2:47: experiments[0].workload.n_promts: unknown key (did you mean 'n_prompts'?)"
    ]


def test_a_study_has_what_its_file_says_and_else_the_defaults(tmp_path: Path) -> None:
    plain = study(tmp_path, "name: plain one\nexperiments: [{seed: 3}, {name: b, seed: 4}]\n")
    assert plain == Study("plain one", plain.experiments, 3, from_file=True)
    assert [experiment.name for experiment in plain.experiments] == ["seed=3", "b"]
    text = """\
name: full
cycles: {min: 6}
seed: 7
order: sequential
placement: any
launcher: {name: local, gpus: none}
timeouts: {job_s: 10}
retries: {limit: 0}
cool_down: {max_temperature_c: 50}
experiments: [{}]
"""
    full = study(tmp_path, text)
    assert (full.cycles, full.seed, full.order, full.placement) == (Adaptive(min=6), 7, "sequential", "any")
    assert (full.launcher.name, full.timeouts.job_s, full.retries.limit) == ("local", 10, 0)
    assert full.cool_down.max_temperature_c == 50


@pytest.mark.parametrize("wrong", [False, True])
def test_a_thousand_experiments_are_read_in_seconds_wrong_or_right(tmp_path: Path, wrong: bool) -> None:
    """The limit is loose, because the machine has other work; a second look at every line would still show."""
    key = "n_promts" if wrong else "n_prompts"
    lines = [f"  - {{name: e{n}, batch_size: {n + 1}, workload: {{{key}: 50}}}}\n" for n in range(1000)]
    path = write(tmp_path, "name: a\nexperiments:\n" + "".join(lines))
    started = time.process_time()
    if wrong:
        with pytest.raises(StudyInvalid) as caught:
            load_study(path)
        assert len(caught.value.problems) == 1000
    else:
        assert len(load_study(path).experiments) == 1000
    assert time.process_time() - started < 2
