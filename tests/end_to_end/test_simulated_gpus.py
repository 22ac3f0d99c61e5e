"""Energy through Docker's own `--gpus`: from containers that see simulated GPUs to SQL over what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from images.contract import files
from images.contract.result import ExperimentResult
from tests.docker_engine import docker_command
from tests.gpu_node.node import Node
from tests.runner.command import Ran, leftovers, results, runner

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]
QUICK = {
    "workload": {"n_prompts": 4, "max_output_tokens": 4},
    "measurement": {"baseline": {"seconds": 1.0}, "warmup": {"window": 2, "max_rounds": 2}},
}


@pytest.fixture
def gpus(host_node: Node) -> Node:
    """Every GPU at a power of its own."""
    for gpu in host_node.gpus:
        gpu.constant(watts_of(gpu.index))
    return host_node


def watts_of(index: int) -> float:
    return 100.0 + 50.0 * index


def test_a_container_given_gpu_3_reports_its_joules_and_no_others(gpus: Node, stub_image: str, tmp_path: Path) -> None:
    """Plain docker, no launcher of ours and no context: the image finds out by itself."""
    config = {"backend": "stub", "stub": {"window_s": 1.0}, **QUICK}
    (tmp_path / "config.json").write_text(json.dumps(config))
    output = tmp_path / "results"
    output.mkdir()
    uuid = gpus.gpus[3].uuid
    mounts = ["-v", f"{tmp_path / 'config.json'}:/job/config.json:ro", "-v", f"{output}:/results"]
    docker_command(
        *("run", "--rm", "--network", "none", "--user", "0:0", "--gpus", f"device={uuid}", *mounts),
        *(stub_image, "--config", "/job/config.json"),
    )

    (directory,) = files.find_directories(output)
    _is_of_gpu(3, ExperimentResult.from_json(directory), gpus)


def test_the_runner_hands_a_container_the_gpu_that_is_visible_to_it(
    gpus: Node, gpu_library: Path, stub_image: str, tmp_path: Path
) -> None:
    host = gpus.environment(gpu_library) | {"CUDA_VISIBLE_DEVICES": "3"}
    ran = _run(tmp_path, "stub", {"stub.window_s": "1"}, host)

    assert ran.code == 0, ran.stderr
    (result,) = results(tmp_path)
    _is_of_gpu(3, result, gpus)
    assert result.environment_snapshot is not None
    assert result.environment_snapshot.launcher == "docker"
    assert leftovers(tmp_path) == []


def test_two_processes_of_real_torch_on_two_gpus_become_joules_in_sql(
    gpus: Node, gpu_library: Path, pytorch_image: str, tmp_path: Path
) -> None:
    output, database = tmp_path / "results", tmp_path / "w.duckdb"
    for gpu in gpus.gpus[1:3]:
        gpu.square(low_w=90, high_w=400, period_s=0.7, phase_s=0.2 * gpu.index)
    settings = {
        "num_processes": "2",
        "pytorch.device": "cpu",  # torch sees no CUDA here; its GPUs are only metered
        "batch_size": "4",
        "workload.n_prompts": "8",
        "workload.max_output_tokens": "16",
        "measurement.min_window_s": "2",
    }

    ran = _run(output, "pytorch", settings, gpus.environment(gpu_library) | {"CUDA_VISIBLE_DEVICES": "1,2"})

    assert ran.code == 0, ran.stderr
    (result,) = results(output)
    _is_summed_over_both_processes(result, [gpu.uuid for gpu in gpus.gpus[1:3]])
    assert "1 new" in _warehouse("ingest", "--db", database, output)
    with duckdb.connect(str(database), read_only=True) as connection:
        ((n_gpus, energy_j, stored_j, total_j),) = connection.sql(
            "SELECT n_gpus, energy_j, stored_integral_j, total_energy_j FROM energy_from_samples"
        ).fetchall()
        rows = connection.sql(_TRAPEZOID, params=[result.experiment_id]).fetchall()
    assert result.energy_breakdown is not None
    assert n_gpus == 2
    assert stored_j == pytest.approx(result.energy_breakdown.integral_j)
    assert total_j == pytest.approx(result.total_energy_j)
    assert energy_j == pytest.approx(stored_j, rel=0.01)
    assert [index for index, _ in rows] == [0, 1]
    assert sum(joules for _, joules in rows) == pytest.approx(stored_j, rel=0.01), "by SQL that is not the view's"


# The samples as they lie in the warehouse; to the marks the outermost ones inside are held.
_TRAPEZOID = """
SELECT gpu_index, sum((least(coalesce(next_s, window_s), window_s) - timestamp_s) * (gpu_power_w + next_w) / 2)
    + min(timestamp_s) * arg_min(gpu_power_w, timestamp_s)
FROM (
    SELECT s.gpu_index, s.timestamp_s, s.gpu_power_w, e.total_inference_time_sec AS window_s,
        lead(s.timestamp_s) OVER gpu AS next_s, lead(s.gpu_power_w, 1, s.gpu_power_w) OVER gpu AS next_w
    FROM samples s JOIN experiments e USING (experiment_key)
    WHERE experiment_id = ? AND s.timestamp_s BETWEEN 0 AND e.total_inference_time_sec
    WINDOW gpu AS (PARTITION BY s.gpu_index ORDER BY s.timestamp_s)
) GROUP BY gpu_index ORDER BY gpu_index
"""


def _run(output: Path, backend: str, settings: dict[str, str], environment: dict[str, str]) -> Ran:
    chosen = {
        "workload.n_prompts": "4",
        "measurement.baseline.seconds": "1",
        "measurement.warmup.max_rounds": "3",
        **settings,
    }
    options = [part for path, value in chosen.items() for part in ("--set", f"{path}={value}")]
    command = ["run", "--backend", backend, "--cycles", "1", "--output", str(output), *options]
    return runner(*command, env=environment)


def _is_of_gpu(index: int, result: ExperimentResult, node: Node) -> None:
    environment = result.environment_snapshot
    assert environment is not None
    assert environment.gpu_uuids == [node.gpus[index].uuid]
    assert environment.gpu_names == [f"SIMULATED GPU {index}"]
    assert environment.simulated is True
    assert result.total_energy_j == pytest.approx(watts_of(index) * result.total_inference_time_sec, rel=0.015)
    assert result.baseline_power_w == pytest.approx(watts_of(index), rel=0.01)
    assert result.energy_breakdown is not None
    assert result.energy_breakdown.baseline_context is True


def _is_summed_over_both_processes(result: ExperimentResult, uuids: list[str]) -> None:
    energies = [one.energy_metrics.total_energy_joules for one in result.process_results]
    assert [one.gpu_uuids for one in result.process_results] == [[uuid] for uuid in uuids]
    assert sum(energy for energy in energies if energy is not None) == pytest.approx(result.total_energy_j)
    assert all(energy is not None and energy > 0 for energy in energies)
    assert result.aggregation is not None
    assert result.aggregation.num_processes == 2
    assert result.aggregation.gpu_attribution_verified
    assert result.total_inference_time_sec >= 2.0
    assert result.energy_source == "nvml_counter"


def _warehouse(*arguments: str | Path) -> str:
    program = "import sys; from warehouse.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
