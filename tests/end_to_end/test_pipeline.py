"""From a container that runs real torch to a table with intervals, through all three folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from images.contract import files
from images.contract.result import ExperimentResult
from tests.runner.command import failures, runner

SETTINGS = ["workload.n_prompts=10", "workload.max_output_tokens=12", "batch_size=4", "measurement.warmup.max_rounds=3"]
OPTIONS = [part for setting in SETTINGS for part in ("--set", setting)]


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_three_cycles_of_real_torch_become_a_table_with_intervals(tmp_path: Path, pytorch_image: str) -> None:
    output, database = tmp_path / "results", tmp_path / "w.duckdb"

    ran = runner("run", "--backend", "pytorch", "--cycles", "3", "--study", "e2e", "--output", output, *OPTIONS)

    assert ran.code == 0, ran.stderr
    assert "3 new" in warehouse("ingest", "--db", database, output)
    table = warehouse("campaign", "--db", database, "--study", "e2e")
    assert "3 cycles" in table
    row = next(line for line in table.splitlines() if line.strip().startswith("output tokens/s"))
    assert row.count("[") == 2, f"t and percentile intervals expected: {row}"
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.sql(
            "SELECT launcher, image_id, output_tokens, (SELECT sum(r.output_tokens) FROM requests r "
            "WHERE r.experiment_key = e.experiment_key), total_energy_j, energy_source FROM experiments e"
        ).fetchall()
    assert len(rows) == 3
    for launcher, image_id, output_tokens, summed, energy, source in rows:
        assert (launcher, energy, source) == ("docker", None, "none")
        assert image_id.startswith("sha256:")
        assert output_tokens == summed > 0


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
@pytest.mark.torch
def test_container_and_local_process_measure_the_same_work(tmp_path: Path, pytorch_image: str) -> None:
    pytest.importorskip("torch")
    for launcher in ("docker", "local"):
        arguments = ["--launcher", launcher, "--output", str(tmp_path / launcher), "--cycles", "1", *OPTIONS]
        ran = runner("run", "--backend", "pytorch", *arguments)
        assert ran.code == 0, ran.stderr

    inside, outside = (_only_result(tmp_path / launcher) for launcher in ("docker", "local"))

    assert inside.measurement_config_hash == outside.measurement_config_hash
    assert inside.prompts_sha256 == outside.prompts_sha256
    assert inside.total_flops == outside.total_flops
    assert (inside.input_tokens, inside.output_tokens) == (outside.input_tokens, outside.output_tokens)


def test_damaged_directories_cost_nothing_but_themselves(tmp_path: Path) -> None:
    output, database = tmp_path / "results", tmp_path / "w.duckdb"
    stub = ["run", "--backend", "stub", "--launcher", "local", "--output", str(output), "--set", "workload.n_prompts=5"]
    assert runner(*stub, "--cycles", "3").code == 0
    assert runner(*stub, "--cycles", "1", "--set", "stub.fail=out_of_memory").code == 12
    truncated, not_json, escaping = (output / f"damaged-{number}" for number in range(3))
    whole = next(directory for directory in files.find_directories(output) if (directory / files.RESULT_FILE).exists())
    text = (whole / files.RESULT_FILE).read_text()
    for directory, content in (
        (truncated, text[: len(text) // 2]),
        (not_json, "result: fine"),
        (escaping, text.replace('"timeseries": null', '"timeseries": "../../etc/passwd"')),
    ):
        directory.mkdir()
        (directory / files.RESULT_FILE).write_text(content)
    cut_short = output / "cut-short"
    cut_short.mkdir()
    (cut_short / files.REQUESTS_FILE).hardlink_to(whole / files.REQUESTS_FILE)
    (output / ".half-written.tmp-0123abcd").mkdir()
    (output / ".half-written.tmp-0123abcd" / files.RESULT_FILE).write_text("{")

    said = warehouse("ingest", "--db", database, output)

    assert "3 new" in said
    assert "4 quarantined" in said
    assert len(failures(output)) == 1
    with duckdb.connect(str(database), read_only=True) as connection:
        reasons = dict(connection.sql("SELECT directory, reason FROM quarantine").fetchall())
        assert connection.sql("SELECT count(*) FROM failures").fetchall() == [(1,)]
    assert "not valid JSON" in reasons[str(truncated)]
    assert "not valid JSON" in reasons[str(not_json)]
    assert "not a path" in reasons[str(escaping)]
    assert "half-written" in reasons[str(cut_short)]


def _only_result(output: Path) -> ExperimentResult:
    (directory,) = files.find_directories(output)
    return ExperimentResult.from_json(directory)


def warehouse(*arguments: str | Path) -> str:
    command = [
        sys.executable,
        "-c",
        "import sys; from warehouse.cli import main; sys.exit(main())",
        *map(str, arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr
