"""ExperimentConfig: everything that decides what is measured, and the hash that names it.

A released default never changes: the hash leaves defaults out, so a changed default would give two
different measurements one name. New behaviour gets a new field (``tests/images/contract/golden`` pins each).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import reprlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from images.contract.job import ConfigInvalid, ModelUnavailable
from images.contract.options.pytorch import PytorchOptions
from images.contract.options.stub import StubOptions
from images.contract.options.trt import TrtOptions
from images.contract.options.vllm import VllmOptions
from images.contract.strict import Part
from images.contract.work import Measurement, Sampling, Workload

BackendName = Literal["pytorch", "vllm", "trt", "stub"]
BACKENDS: tuple[BackendName, ...] = ("pytorch", "vllm", "trt", "stub")
NEEDS_GPU: frozenset[BackendName] = frozenset({"trt"})
"""Backends that run nowhere else."""
TINY_LLAMA = "builtin:tiny-llama"
_LOCAL_PREFIXES = ("/", "./", "../", "~")


class ExperimentConfig(Part):
    """One resolved experiment. Of the backend sections only the chosen backend's is allowed."""

    backend: BackendName = Field("pytorch", description="inference engine")
    model: Annotated[str, Field(min_length=1)] = Field(
        TINY_LLAMA, description="hub id, local folder (starting with /, ./, ../ or ~) or builtin:tiny-llama"
    )
    model_revision: str | None = Field(None, description="branch, tag or commit on the hub")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="auto is the model's own")
    batch_size: int = Field(8, ge=1, description="requests in flight at once")
    num_processes: int = Field(1, ge=1, description="data parallel processes, one per GPU group")
    gpus_per_process: int = Field(1, ge=1, description="tensor parallel width")
    workload: Workload = Workload()
    sampling: Sampling = Sampling()
    measurement: Measurement = Measurement()
    seed: int = Field(42, ge=0, le=2**32 - 1, description="of prompts, sampling and builtin weights")
    pytorch: PytorchOptions | None = None
    vllm: VllmOptions | None = None
    trt: TrtOptions | None = None
    stub: StubOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_own_section(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        backend = data.get("backend", "pytorch")
        if backend not in BACKENDS:
            return data  # the field's own error says it better
        foreign = [name for name in BACKENDS if name != backend and data.get(name) is not None]
        if foreign:
            raise ValueError(
                f"section '{foreign[0]}' belongs to another backend; this experiment's backend is '{backend}'. "
                f"Remove it, or set backend: {foreign[0]}"
            )
        return data if data.get(backend) is not None else {**data, backend: {}}

    @model_validator(mode="after")
    def _stamps_what_it_selects_by(self) -> Self:
        if self.measurement.methodology != "total" and not self.stamps_tokens:
            raise ValueError(
                f"methodology {self.measurement.methodology} needs a time stamp on every token, which backend "
                f"'{self.backend}' gives with {self.backend}.token_times: true; set that, or methodology: total"
            )
        if self.measurement.methodology == "steady_state" and self.workload.arrivals.is_open:
            raise ValueError("methodology steady_state is of a closed batch; set methodology: total or windowed")
        return self

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        if self.workload.arrivals.is_open and self.measurement.min_window_s > 0:
            raise ValueError(
                "measurement.min_window_s repeats a closed batch; an open loop lasts workload.n_prompts / rate_per_s "
                "seconds, so raise workload.n_prompts"
            )
        return self

    @model_validator(mode="after")
    def _work_for_every_process(self) -> Self:
        if self.workload.n_prompts < self.num_processes:
            raise ValueError(
                f"workload.n_prompts ({self.workload.n_prompts}) is below num_processes ({self.num_processes}), "
                "so some process would have nothing to do"
            )
        return self

    @property
    def stamps_tokens(self) -> bool:
        """Whether the backend puts a time stamp on every delivery of tokens."""
        section = {"vllm": self.vllm, "trt": self.trt}.get(self.backend)
        return section is None or section.token_times

    @property
    def model_path(self) -> Path | None:
        """The model's folder if it is a local one, else None."""
        return _local(self.model) if self.model.startswith(_LOCAL_PREFIXES) else None

    @property
    def drafter(self) -> str | None:
        """The model that drafts tokens for this one, named as `model` is; None if there is none."""
        if self.trt is not None:
            named: str | None = self.trt.speculative_config.get("speculative_model_dir")
            return named
        return self.pytorch.assistant_model if self.pytorch else self.vllm.speculative.model if self.vllm else None

    @property
    def drafter_path(self) -> Path | None:
        """The drafter's folder if it is a local one, else None."""
        drafter = self.drafter
        return _local(drafter) if drafter is not None and drafter.startswith(_LOCAL_PREFIXES) else None

    @property
    def prompt_file(self) -> Path | None:
        """The prompt file if the workload reads one, else None."""
        source = self.workload.source
        return None if source in ("builtin", "synthetic") else _local(source)

    def with_files_below(self, folder: Path) -> Self:
        """The same with its local files named absolutely; relative ones are below `folder`."""
        named = self if self.drafter_path is None else self._with_drafter(str(folder / self.drafter_path))
        changes: dict[str, Any] = {}
        if self.model_path is not None:
            changes["model"] = str(folder / self.model_path)
        if self.prompt_file is not None:
            changes["workload"] = self.workload.model_copy(update={"source": str(folder / self.prompt_file)})
        return named.model_copy(update=changes)

    def _with_drafter(self, name: str) -> Self:
        """The same with another name for the model that drafts."""
        if self.pytorch is not None:
            return self.model_copy(update={"pytorch": self.pytorch.model_copy(update={"assistant_model": name})})
        if self.vllm is not None:
            speculative = self.vllm.speculative.model_copy(update={"model": name})
            return self.model_copy(update={"vllm": self.vllm.model_copy(update={"speculative": speculative})})
        if self.trt is not None:
            drafting = {**self.trt.speculative_config, "speculative_model_dir": name}
            return self.model_copy(update={"trt": self.trt.model_copy(update={"speculative_config": drafting})})
        return self

    def measurement_config_hash(self) -> str:
        """First 16 hex digits of SHA-256 over the canonical JSON of this configuration.

        Defaults are left out, so a field added later with a default changes no old hash. Local prompt
        files and model folders enter by content, so that moving them changes nothing.

        Raises:
            ConfigInvalid: the prompt file cannot be read.
            ModelUnavailable: the model folder is not there or cannot be read.
        """
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:16]

    def canonical_json(self) -> str:
        """The text that is hashed: no defaults, no empty mappings, integral floats as integers, sorted keys."""
        drafter = self.drafter_path
        named = self if drafter is None else self._with_drafter(f"sha256:{_folder_digest(drafter)}")
        own = named.model_dump(mode="json")
        if self.prompt_file is not None:
            own["workload"]["source"] = f"sha256:{_prompts_digest(self.prompt_file)}"
        if self.model_path is not None:
            own["model"] = f"sha256:{_folder_digest(self.model_path)}"
        default = ExperimentConfig.model_validate({"backend": self.backend}).model_dump(mode="json")
        default["backend"] = ExperimentConfig.model_fields["backend"].default
        return json.dumps(_canonical(_without_defaults(own, default)), sort_keys=True, separators=(",", ":"))


def parse_config(data: Any) -> ExperimentConfig:
    """Validate what a person wrote.

    Raises:
        ConfigInvalid: with every error in one line, field paths first, misspelt keys with a suggestion.
    """
    try:
        return ExperimentConfig.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(_describe(problem) for problem in error.errors())
        raise ConfigInvalid(f"invalid configuration: {problems}.", "Correct the field and run again.") from None


def _describe(problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        known = _field_names(path[:-1])
        close = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        return f"unknown key '{'.'.join(path)}' ({hint})"
    message = problem["msg"].removeprefix("Value error, ")
    if not path:
        return str(message)
    return f"{'.'.join(path)}: {message[0].lower()}{message[1:]}, got {reprlib.repr(problem['input'])}"


def _field_names(path: list[str]) -> list[str]:
    sample: Any = ExperimentConfig(pytorch=PytorchOptions())
    sections = {"pytorch": PytorchOptions, "vllm": VllmOptions, "trt": TrtOptions, "stub": StubOptions}
    for part in path:
        sample = sections[part]() if part in sections else getattr(sample, part, None)
    return sorted(type(sample).model_fields) if isinstance(sample, BaseModel) else []


def _without_defaults(value: Any, default: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(default, dict):
        return value
    return {
        key: _without_defaults(item, default.get(key))
        for key, item in value.items()
        if key not in default or item != default[key]
    }


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        items = {str(key): _canonical(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item != {}}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _local(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)  # ~ of a user that does not exist; whoever opens it says that it is not there


def _prompts_digest(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise ValueError("not a regular file")
        return _file_digest(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigInvalid(f"the prompt file {path} cannot be read ({reason}).", "Correct workload.source.") from None


def _folder_digest(folder: Path) -> str:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise ModelUnavailable(f"the model folder {folder} {what}.", "Correct the path given as model.")
    digest = hashlib.sha256()
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder)
            if not any(part.startswith(".") for part in name.parts):  # caches and .git differ between copies
                digest.update(f"{name.as_posix()}\0{_file_digest(path)}\0".encode())
    except OSError as error:
        raise ModelUnavailable(
            f"the model folder {folder} cannot be read ({error.strerror}: {error.filename}).",
            "Correct its permissions, or the path given as model.",
        ) from None
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(path, (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size))


@lru_cache(maxsize=4096)
def _digest_of(path: Path, _identity: tuple[int, ...]) -> str:
    """Times and size are part of the key, so that a changed file is read again and others only once."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
