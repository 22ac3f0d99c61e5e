"""Prompts from a .jsonl file, and what is said when it is not one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from images.contract.job import ConfigInvalid, ExitCode
from images.harness.workload import prepare_workload
from tests.images.harness.fakes import WordTokenizer, config, loaded_model
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
    "line",
    [
        "plain text",
        '{"prompt": "cut o',
        '{"text": "another name"}',
        '["a list"]',
        '{"prompt": 5}',
        '{"prompt": ""}',
        '{"prompt": "half a pair \\ud800"}',
        "[" * 100_000,
        "null",
    ],
)
def test_a_malformed_line_is_named_by_its_number_in_the_file(tmp_path: Path, line: str) -> None:
    file = write(tmp_path, '{"prompt": "good"}', "", line, '{"prompt": "good"}')
    assert f"line 3 of {file} is not a JSON object" in refusal(file)


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
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(tmp_path / "binary.jsonl")


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
