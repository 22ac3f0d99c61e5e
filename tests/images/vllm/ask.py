"""A backend in its container, asked without a harness around it: what it says of itself, and the ids of some runs.

    python3 ask.py QUESTION.json ANSWER.json

Of the question, `config` is a configuration, and `runs` has for each run what is different in it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from images.contract.config import parse_config
from images.contract.job import JobContext
from images.harness.backend import Request
from images.vllm.backend import Backend

# Tokens 3 to 258 are bytes.
REQUESTS = [
    Request(
        index=index,
        token_ids=tuple(3 + (index * 37 + step * 11) % 256 for step in range(length)),
        max_output_tokens=12,
        ignore_eos=True,
    )
    for index, length in enumerate((5, 31, 12, 18))
]


def main(question: Path, answer: Path) -> None:
    asked = json.loads(question.read_text())
    backend = Backend()
    loaded = backend.load(parse_config(asked["config"]), JobContext())
    outputs = []
    for changes in asked["runs"]:
        backend._config = parse_config({**asked["config"], **changes})
        done = {one.request_index: one.output_ids for one in backend.run(REQUESTS)}
        outputs.append([done[request.index] for request in REQUESTS])
    told = {
        "observed": dict(loaded.observed_settings),
        "findings": loaded.findings,
        "memory": asdict(backend.memory()),
        "outputs": outputs,
    }
    answer.write_text(json.dumps(told))
    backend.close()


if __name__ == "__main__":  # vLLM spawns its processes, and each imports this file
    main(Path(sys.argv[1]), Path(sys.argv[2]))
