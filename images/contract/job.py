"""The interface of every job image: arguments, mount points, exit codes, labels.

The runner starts a job and a job answers it through nothing but what is named here, so a host that
knows this file can drive any image that carries the same ``CONTRACT_VERSION`` label.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json, to_json

from images.contract.scheduling import Scheduling

CONTRACT_VERSION = "5"

# What an image is started with: IMAGE --config FILE --output DIR [--context FILE], and where no runner shares a disk
# with the job, [--publish PLACE [--keep-going] [--tries N]] [--report FILE] [--deadline SECONDS].
ARG_CONFIG = "--config"
ARG_CONTEXT = "--context"
ARG_OUTPUT = "--output"
ARG_PUBLISH = "--publish"
ARG_KEEP_GOING = "--keep-going"
ARG_TRIES = "--tries"
ARG_REPORT = "--report"
ARG_DEADLINE = "--deadline"

# Where things are inside a container.
RESULTS_MOUNT = "/results"
MODELS_MOUNT = "/models"
ENGINES_MOUNT = "/engines"

# Files that runner and job exchange in the output folder while the job runs.
CONFIG_FILE = "config.json"
CONTEXT_FILE = "context.json"
PROGRESS_FILE = "progress.json"

# Environment variables that a job reads.
ENV_LOG_LEVEL = "JOULEHOUSE_LOG_LEVEL"
ENV_NODE = "JOULEHOUSE_NODE"
ENV_POD = "JOULEHOUSE_POD"
ENV_JOB = "JOULEHOUSE_JOB"
"""Uid of the Job that a pod belongs to: its tries count together."""
"""Names of machine and pod, where only the environment can tell them; a pod's is that of this try, too."""
ENV_HF_HUB_CACHE = "HF_HUB_CACHE"
ENV_HF_HUB_OFFLINE = "HF_HUB_OFFLINE"
ENV_ENGINE_CACHE = "JOULEHOUSE_ENGINE_CACHE"
"""Names a writable folder that outlives the job, for engines that take long to build; without it every job builds."""

# OCI image labels, set by every Dockerfile and read by the docker launcher.
LABEL_CONTRACT = "io.joulehouse.contract"
LABEL_BACKEND = "io.joulehouse.backend"
LABEL_REVISION = "org.opencontainers.image.revision"


class ExitCode(IntEnum):
    """Exit codes of a job; the runner's own exit code is that of the first failed job.

    1 is a bug in joulehouse, 2 a wrong command line, 125 to 127 come from a launcher.
    """

    OK = 0
    BUG = 1
    USAGE = 2
    CONFIG_INVALID = 10
    MODEL_UNAVAILABLE = 11
    OUT_OF_MEMORY = 12
    GPU_UNUSABLE = 13
    MEASUREMENT_FAILED = 14
    INCOMPLETE_PROCESSES = 15
    INTERRUPTED = 16
    LAUNCHER = 125


class JobError(Exception):
    """A failure with a cause that the user can act on; each subclass has its exit code.

    Args:
        message: what is wrong, in one line.
        advice: what to do about it, in one line.
    """

    exit_code = ExitCode.BUG

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = one_line(message)
        self.advice = one_line(advice)

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip()


class ConfigInvalid(JobError):
    exit_code = ExitCode.CONFIG_INVALID


class ModelUnavailable(JobError):
    exit_code = ExitCode.MODEL_UNAVAILABLE


class OutOfMemory(JobError):
    exit_code = ExitCode.OUT_OF_MEMORY


class GpuUnusable(JobError):
    exit_code = ExitCode.GPU_UNUSABLE


class MeasurementFailed(JobError):
    exit_code = ExitCode.MEASUREMENT_FAILED


class IncompleteProcesses(JobError):
    exit_code = ExitCode.INCOMPLETE_PROCESSES


class Interrupted(JobError):
    exit_code = ExitCode.INTERRUPTED


class JobContext(BaseModel):
    """What the launcher knows and the measurement does not depend on; none of it enters the hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str | None = Field(None, description="name of the study")
    experiment: str | None = Field(None, description="name of the experiment in the study")
    cycle: int = Field(1, ge=1, description="number of this repetition, from 1")
    block: str | None = Field(None, description="block (cycle and GPU set) this cycle ran in")
    scheduling: Scheduling | None = Field(None, description="how the runner placed and ordered it")
    attempt: int = Field(1, ge=1, description="number of this try at the cycle, from 1")
    measurement_config_hash: str | None = Field(
        None, description="hash computed on the host, where the local files that enter it are"
    )
    image_name: str | None = Field(None, description="image reference; None for a local process")
    image_id: str | None = Field(None, description="image content id (sha256:...)")
    image_repo_digest: str | None = Field(None, description="registry digest; None if never pushed")
    git_revision: str | None = Field(None, description="joulehouse's git revision")
    launcher: str | None = Field(None, description="local, docker or kubernetes")
    gpu_uuids: list[str] | None = Field(
        None, description="GPUs given to the job, in its order; empty is the CPU; None: the job looks for itself"
    )
    foreign_processes: list[str] = Field(
        default_factory=list, description="processes of others on these GPUs, as the host saw them at the start"
    )
    remarks: list[str] = Field(
        default_factory=list, description="warnings of the launcher's own (code: what was seen), passed on as they are"
    )
    process_index: int = Field(
        0, ge=0, description="which of the experiment's processes this is; set by the job itself"
    )
    node: str | None = Field(None, description="host name of the machine")
    pod: str | None = Field(None, description="Kubernetes pod name")


def only_json(value: dict[str, Any]) -> dict[str, Any]:
    """`value`, if JSON can hold it and give it back; a validator of fields that take anything.

    Raises:
        ValueError: NaN, infinity, half a surrogate pair, another type, or nested too deeply.
    """
    try:
        # Read as a result is read, which has a limit on nesting; the brackets are what will stand around it there.
        text = b"[[[[%b]]]]" % to_json(value, inf_nan_mode="constants")
        given_back = from_json(text, allow_inf_nan=False)
    except (ValueError, RecursionError):
        given_back = None
    if given_back != [[[[value]]]]:
        raise ValueError("only JSON values are allowed (no NaN, no infinity, no deep nesting)")
    return value


def one_line(text: str) -> str:
    """`text` with all white space folded, so that a message is always one line."""
    return " ".join(text.split())
