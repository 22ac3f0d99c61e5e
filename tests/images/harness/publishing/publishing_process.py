"""A process that publishes cycles one after another: ``python -m ... PLACE CYCLE...``, with a result for each."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from images.harness.publishing.delivery import place_at
from images.harness.publishing.publisher import Publisher
from tests.warehouse.results import CONFIG, make_result, requests_table

HASH = CONFIG.measurement_config_hash()


def finished(folder: Path, cycle: int, number: int) -> tuple[Path, str]:
    """A finished directory of this cycle, and its id, which follows from `number`."""
    result = make_result(number).model_copy(update={"cycle": cycle})
    return result.save(folder, requests=requests_table(3)).parent, result.experiment_id


def main() -> None:
    address, process, *cycles = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        for cycle in map(int, cycles):
            publisher = Publisher(place_at(address), HASH, cycle)
            if publisher.published() is None:
                publisher.begin()
                publisher.publish_result(*finished(Path(folder), cycle, 1000 * int(process) + cycle))


if __name__ == "__main__":
    main()
