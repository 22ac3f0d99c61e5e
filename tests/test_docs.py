"""Documentation is tested: what exists is described, and what is described exists."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from images.contract.config import BACKENDS, ExperimentConfig
from runner.cli import cli as runner_cli
from tests.bench.__main__ import PARTS
from tests.docs.findings_of_code import advice
from warehouse.cli import cli as warehouse_cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
MAKE = (ROOT / "docs" / "make.md").read_text()
COMMANDS = [
    (program, name, command)
    for program, group in (("runner", runner_cli), ("warehouse", warehouse_cli))
    for name in group.list_commands(click.Context(group))
    if (command := group.get_command(click.Context(group), name)) is not None
]


def test_the_commands_are_found() -> None:
    assert {program for program, _, _ in COMMANDS} == {"runner", "warehouse"}


@pytest.mark.parametrize(("program", "name", "command"), COMMANDS, ids=lambda part: str(part))
def test_every_command_and_option_has_help_and_is_on_the_page(program: str, name: str, command: click.Command) -> None:
    """The page is written from the code (tests/docs), groups opened; this looks at what a reader finds."""
    page = (ROOT / "docs" / "commands.md").read_text()
    assert command.help
    assert f"## {program} {name}" in page
    section = page.partition(f"## {program} {name}\n")[2].partition("\n## ")[0]
    options = [name for option in command.params if isinstance(option, click.Option) for name in option.opts]
    assert [option for option in options if option not in section] == []
    undescribed = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    assert undescribed == []


def test_every_warning_is_documented() -> None:
    codes = {code.replace("...", "p95") for code in advice()}
    text = (ROOT / "docs" / "results.md").read_text()
    assert len(codes) > 25
    assert sorted(code for code in codes if f"`{code}`" not in text) == []


def test_every_knob_of_make_run_is_on_the_page() -> None:
    knobs = re.findall(r"^([A-Z_]+) +\?=", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert len(knobs) > 5
    assert sorted(knob for knob in knobs if f"`{knob}" not in MAKE) == []


def test_every_make_target_says_what_it_does() -> None:
    targets = set(re.findall(r"^\.PHONY: ([a-z-]+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    listed = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert {line.split()[0] for line in listed.splitlines() if not line.startswith("backends")} >= targets
    on_the_page = set(re.findall(r"(?:`|## )make ([a-z-]+)", MAKE))
    assert sorted(targets - on_the_page) == []
    assert sorted(name for name in re.findall(r"REQUIRE_[A-Z]+", listed) if f"`{name}=1`" not in MAKE) == []


def test_every_part_of_the_bench_is_on_the_page() -> None:
    row = next(line for line in MAKE.splitlines() if line.startswith("| `make bench`"))
    assert sorted(part for part in PARTS if f"`{part}`" not in row) == []


def test_the_configuration_page_lists_every_field() -> None:
    """Written from the models; UPDATE_DOCS=1 writes it anew."""
    page = ROOT / "docs" / "configuration.md"
    if os.environ.get("UPDATE_DOCS") == "1":
        page.write_text(_configuration_page())
    assert page.read_text() == _configuration_page(), "run `UPDATE_DOCS=1 .venv/bin/pytest tests/test_docs.py`"


def _configuration_page() -> str:
    lines = [
        "# Configuration",
        "",
        "Every field of an experiment. On the command line: `runner run --set field.path=value`. A misspelt field,",
        "a wrong type or another backend's section is refused before anything runs. `null` leaves the choice to the",
        "engine.",
        "",
        "| field | default | meaning |",
        "| --- | --- | --- |",
        *_rows(ExperimentConfig, ""),
    ]
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        part = _model_in(field.annotation)
        if part is not None:
            yield from _rows(part, f"{prefix}{name}.")
            continue
        assert field.description, f"{prefix}{name} has no meaning; its choices alone are none"
        default = field.get_default(call_default_factory=True)
        meaning = field.description.replace("|", "\\|")
        choices = _choices(field.annotation)
        yield f"| `{prefix}{name}` | `{json.dumps(default)}` | {f'{choices}; ' if choices else ''}{meaning} |"


def _model_in(annotation: object) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _choices(annotation: object) -> str:
    arguments = getattr(annotation, "__args__", ())
    if getattr(annotation, "__origin__", None) is not None and all(isinstance(one, str) for one in arguments):
        return ", ".join(f"`{one}`" for one in arguments)
    return next((found for one in arguments if (found := _choices(one))), "")


def test_the_backends_that_are_offered_are_there() -> None:
    offered = re.findall(r"`(\w+)`", next(line for line in MAKE.splitlines() if line.startswith("| `BACKEND`")))
    assert set(offered[1:]) == {name for name in BACKENDS if (ROOT / "images" / name / "Dockerfile").exists()}


def test_the_readme_is_one_screen_and_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).is_file()] == []
    assert len(README.splitlines()) < 80


def test_every_page_is_linked_from_the_readme_or_the_start_page() -> None:
    listed = (ROOT / "docs" / "index.md").read_text()
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert sorted(page for page in pages if not re.search(rf"^{page}$", listed, re.MULTILINE)) == []
