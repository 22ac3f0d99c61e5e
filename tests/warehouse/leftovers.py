"""Raw results as the processes of an incomplete experiment leave them, written with the real contract."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from images.contract.config import ExperimentConfig
from images.contract.facts import Facts, write_facts
from images.contract.files import REQUESTS_SCHEMA
from images.contract.job import CONFIG_FILE, CONTEXT_FILE, JobContext
from images.contract.parts import EnvironmentSnapshot
from images.contract.process import ProcessData, ProcessRecord, write_process
from tests.warehouse.results import make_result, requests_table


def leave_raw(output: Path, number: int = 1, processes: Iterable[int] = (0, 1), expected: int = 2) -> Path:
    """The folder in `output`/raw with what these processes of an experiment of `expected` left."""
    config = ExperimentConfig(backend="stub", num_processes=expected, batch_size=number)
    result = make_result(number, config=config)
    folder = output / "raw" / result.experiment_id
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(config.model_dump_json())
    (folder / CONTEXT_FILE).write_text(JobContext(cycle=number).model_dump_json())
    facts = Facts(
        experiment_id=result.experiment_id,
        config_hash=config.measurement_config_hash(),
        environment=EnvironmentSnapshot(cpu_model="Test CPU"),
    )
    write_facts(folder, facts)
    for index in processes:
        raw = result.process_results[0].model_copy(update={"process_index": index})
        rows = [row | {"process_index": index} for row in requests_table(3).to_pylist()]
        table = pa.Table.from_pylist(rows, schema=REQUESTS_SCHEMA)
        write_process(folder, ProcessData(ProcessRecord(raw=raw, window_s=2.0, stamped_requests=3), table, None))
    return folder
