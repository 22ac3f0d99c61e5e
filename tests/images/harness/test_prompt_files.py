"""Prompts from a .jsonl file, and what is said when it is not one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from images.contract.job import ConfigInvalid, ExitCode, JobContext
from images.harness.measure import measure
from images.harness.workload import prepare_workload
from tests.images.harness.fakes import FakeBackend, Phases, WordTokenizer, config, loaded_model
from tests.images.stub.jobs import run, stub


def write(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    return file


def texts_of(file: Path, n_prompts: int) -> list[str]:
    """The texts that reach the tokenizer."""
    seen: list[str] = []

    class Texts(WordTokenizer):
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            seen.append(text)
            return [5]

    prepare_workload(config({"source": str(file), "n_prompts": n_prompts}), loaded_model(tokenizer=Texts()))
    return seen


def refusal(file: Path, n_prompts: int = 1) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        texts_of(file, n_prompts)
    return str(caught.value)


def test_the_first_n_prompts_are_taken_in_their_order_and_blank_lines_passed_over(tmp_path: Path) -> None:
    file = write(tmp_path, '{"prompt": "one", "id": 7}', "", '{"prompt": "two"}\r', '{"prompt": "three"}', "")
    assert texts_of(file, 2) == ["one", "two"]
    assert texts_of(file, 3) == ["one", "two", "three"]


@pytest.mark.parametrize("break_in_text", ["\u2028", "\u0085", "\x7f", "\u2029"])
def test_a_prompt_may_hold_every_character_that_json_allows(tmp_path: Path, break_in_text: str) -> None:
    prompt = f"first{break_in_text}second"
    assert texts_of(write(tmp_path, json.dumps({"prompt": prompt}, ensure_ascii=False)), 1) == [prompt]


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    assert texts_of(write(tmp_path, '\ufeff{"prompt": "one"}'), 1) == ["one"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("plain text", "is not JSON (Expecting value)."),
        ('{"prompt": "cut o', "is not JSON (Unterminated string starting at)."),
        ('{"prompt": "a", "id": ' + "9" * 5000 + "}", "is not JSON."),
        ("[" * 100_000, "is not JSON."),
        ('{"text": "another name"}', 'has no "prompt".'),
        ('["a list"]', "is not a JSON object."),
        ("null", "is not a JSON object."),
        ('{"prompt": 5}', 'has a "prompt" that is no text.'),
        ('{"prompt": ""}', 'has an empty "prompt".'),
        ('{"prompt": "half a pair \\ud800"}', 'has a "prompt" that is no text.'),
    ],
)
def test_a_malformed_line_is_named_by_its_number_and_what_is_wrong_with_it(
    tmp_path: Path, line: str, says: str
) -> None:
    file = write(tmp_path, '{"prompt": "good"}', "", line, '{"prompt": "good"}')
    assert f"line 3 of {file} {says} Correct or remove that line" in refusal(file)


def test_a_file_with_too_few_prompts_says_how_many_it_holds(tmp_path: Path) -> None:
    file = write(tmp_path, '{"prompt": "one"}', '{"prompt": "two"}')
    assert "holds 2 prompts; n_prompts is 3" in refusal(file, 3)


@pytest.mark.parametrize("lines", [(), ("", "  \r", "")])
def test_an_empty_file_is_refused_as_such(tmp_path: Path, lines: tuple[str, ...]) -> None:
    file = write(tmp_path, *lines)
    assert f"the prompt file {file} is empty. Write one JSON object a line" in refusal(file)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "absent.jsonl")
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "one"}\n{"prompt": "é"}\n'.encode("latin-1"))
    assert "line 2 of" in (said := refusal(tmp_path / "latin.jsonl"))
    assert "is not UTF-8. Save the file as UTF-8." in said
    os.mkfifo(tmp_path / "pipe.jsonl")
    for endless in (tmp_path / "pipe.jsonl", Path("/dev/zero")):
        assert "cannot be read (not a regular file)" in refusal(endless)


def test_bad_prompts_are_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    backend = FakeBackend()
    for workload in ({"source": str(write(tmp_path, "no json"))}, {"source": "builtin", "n_prompts": 5000}):
        with pytest.raises(ConfigInvalid):
            measure(config(workload), JobContext(gpu_uuids=[]), "exp_test", backend, Phases(), Path())
    assert backend.calls == []


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ((), "is empty"),
        (('{"prompt": "good"}', '{"prompt": "cut'), "line 2 of"),
        (('{"prompt": "a"}',), "holds 1 prompts"),
    ],
)
def test_a_job_with_a_bad_prompt_file_ends_with_one_line_its_code_and_a_failure(
    tmp_path: Path, lines: tuple[str, ...], says: str
) -> None:
    ended = run(tmp_path, stub({"source": str(write(tmp_path, *lines))}))
    assert ended.code == ExitCode.CONFIG_INVALID
    (line,) = ended.errors
    assert says in line
    assert says in ended.failure.message
