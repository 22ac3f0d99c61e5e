"""What a job of several processes leaves in raw/ is enough for the result that the job itself would have made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from images.contract import files
from images.contract.job import JobContext
from images.contract.leftover import load_leftover
from images.contract.result import ExperimentResult
from images.contract.scheduling import Scheduling
from tests.images.stub.jobs import ROOT
from tests.images.stub.simulated import Machine, on_gpus

pytestmark = pytest.mark.xdist_group("leftover")
ID = "exp_20260102_030405_0a1b2c3d"
MEASURE = """
import json, sys
from pathlib import Path
from images.contract.config import parse_config
from images.contract.job import JobContext
from images.harness.measure import measure
from images.harness.progress import ProgressFile
from images.stub.backend import Backend

folder = Path(sys.argv[1])
config = parse_config(json.loads((folder / "config.json").read_text()))
context = JobContext.model_validate_json((folder / "context.json").read_text())
measured = measure(config, context, sys.argv[2], Backend(), ProgressFile(folder / "progress.json"), folder)
measured.result.save(folder / "own", requests=measured.requests, timeseries=measured.timeseries)
"""
"""A job up to where its raw results go."""


@pytest.fixture(scope="module")
def left(shared_machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with own/, what the job made of its processes, and raw/, which those left."""
    folder = tmp_path_factory.mktemp("left")
    measurement = {"baseline": {"enabled": True, "seconds": 1.0}, "cool_down": {"max_temperature_c": 90.0}}
    document = on_gpus({"n_prompts": 7, "max_output_tokens": 4}, num_processes=2, measurement=measurement)
    context = JobContext(
        study="s", experiment="e", cycle=3, remarks=["remark: of the launcher. Read it."],
        scheduling=Scheduling(placement="any", position=2), foreign_processes=["python (pid 7) on GPU-0"],
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(document))
    (folder / "context.json").write_text(context.model_dump_json())
    environment = {**os.environ, **shared_machine.environment(), "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    subprocess.run([sys.executable, "-c", MEASURE, str(folder), ID], env=environment, check=True)
    (folder / files.RAW_FOLDER).mkdir()
    (folder / f"{files.UNFINISHED_RAW_PREFIX}{ID}").rename(folder / files.RAW_FOLDER / ID)
    return folder


def test_the_late_result_is_the_job_s_own_to_the_last_byte(left: Path) -> None:
    leftover = load_leftover(left / files.RAW_FOLDER / ID)
    result, requests, samples = leftover.aggregate()
    late = result.save(left / "late", requests=requests, timeseries=samples).parent
    (own,) = (left / "own").iterdir()
    assert leftover.report().is_complete
    assert late.name == own.name
    names = sorted(path.name for path in own.iterdir())
    assert names == ["requests.parquet", "result.json", "timeseries.parquet"]
    assert [(late / name).read_bytes() for name in names] == [(own / name).read_bytes() for name in names]


def test_it_has_what_only_the_coordinator_knew(left: Path) -> None:
    result = load_leftover(left / files.RAW_FOLDER / ID).aggregate()[0]
    breakdown, environment = result.energy_breakdown, result.environment_snapshot
    assert breakdown is not None
    assert breakdown.baseline_power_before_w is not None
    assert breakdown.baseline_power_after_w is not None, "measured after the processes had written"
    assert environment is not None
    assert environment.driver_version is not None
    assert result.thermal_throttle is not None
    assert result.thermal_throttle.cool_down is not None


def test_without_one_process_no_idle_power_of_all_gpus_is_taken_from_the_energy_of_some(
    left: Path, tmp_path: Path
) -> None:
    folder = tmp_path / ID
    shutil.copytree(left / files.RAW_FOLDER / ID, folder)
    whole = ExperimentResult.from_json(next((left / "own").iterdir()))
    (folder / ".completed_0").unlink()
    result = load_leftover(folder).aggregate()[0]
    assert whole.energy_adjusted_j is not None
    assert (result.energy_adjusted_j, result.baseline_power_w) == (None, None)
    assert result.total_energy_j == whole.process_results[1].energy_metrics.total_energy_joules
    assert "rank_missing" in result.invalid_reasons
