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

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from images.contract.job import ConfigInvalid, ModelUnavailable, only_json

BackendName = Literal["pytorch", "vllm", "trt", "stub"]
BACKENDS: tuple[BackendName, ...] = ("pytorch", "vllm", "trt", "stub")
STAMPING_BACKENDS = frozenset({"pytorch", "stub"})
"""Backends that put a time stamp on every token."""
TINY_LLAMA = "builtin:tiny-llama"
_LOCAL_PREFIXES = ("/", "./", "../", "~")


class _Part(BaseModel):
    """Strict, because "8" for 8 or yes for 1 is a typing error to be told about, not guessed at."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Workload(_Part):
    """What is asked of the model."""

    source: str = Field(
        "builtin",
        min_length=1,
        description="builtin (prompts that come with joulehouse), synthetic (random token ids of exactly "
        "max_input_tokens), or the path of a .jsonl file with a `prompt` in every line",
    )
    n_prompts: int = Field(100, ge=1, description="requests in one pass")
    max_input_tokens: int = Field(512, ge=1, description="longer prompts are cut at the end (tokens)")
    max_output_tokens: int = Field(128, ge=1, description="most tokens generated per request (tokens)")
    ignore_eos: bool = Field(False, description="generate max_output_tokens even past the end token")
    chat_template: Literal["off", "model"] = Field("off", description="wrap prompts in the model's template")
    add_special_tokens: bool = Field(True, description="let the tokenizer add BOS and the like")
    order: Literal["given", "shuffled", "longest_first"] = Field(
        "given", description="order of the requests; shuffled uses the seed"
    )


class Sampling(_Part):
    """How the next token is chosen; temperature 0 is greedy, and then the others have no effect."""

    temperature: float = Field(0.0, ge=0.0, description="0 is greedy: always the likeliest token")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="sample from the likeliest tokens that add up to this")
    top_k: int | None = Field(None, ge=1, description="sample from this many likeliest tokens; null is all")


class Warmup(_Part):
    """Rounds of work before the window, until throughput is steady."""

    enabled: bool = Field(True, description="turn the warm-up off to measure a cold start")
    full_pass: bool = Field(
        True, description="first one unmeasured pass in the shape of every measured batch, so that none is met anew"
    )
    cv_threshold: float = Field(0.05, gt=0.0, description="coefficient of variation that counts as steady")
    window: int = Field(3, ge=2, description="number of latest rounds the coefficient is taken over")
    max_rounds: int = Field(10, ge=1, description="stop here even if not steady")

    @model_validator(mode="after")
    def _can_converge(self) -> Self:
        if self.max_rounds < self.window:
            raise ValueError(
                f"max_rounds ({self.max_rounds}) is below window ({self.window}), so it can never be steady"
            )
        return self


class Baseline(_Part):
    """Idle power before load and after the window."""

    enabled: bool = Field(True, description="measure idle power; needs a meter")
    seconds: float = Field(30.0, ge=1.0, description="length of each idle measurement (s)")


class CoolDownGate(_Part):
    """Wait until every GPU of the job is cool, before anything else."""

    max_temperature_c: float | None = Field(None, gt=0.0, description="wait for this; null does not wait (degrees C)")
    timeout_s: float = Field(300.0, gt=0.0, description="measure all the same after this time (s)")


class Measurement(_Part):
    """How it is measured."""

    methodology: Literal["total", "steady_state", "windowed"] = Field(
        "total", description="which part of the run the figures describe"
    )
    warmup: Warmup = Warmup()
    baseline: Baseline = Baseline()
    sample_interval_ms: int = Field(100, ge=1, description="power sampling interval (ms)")
    energy: Literal["auto", "nvml", "none"] = Field("auto", description="auto uses NVML where it answers")
    min_window_s: float = Field(0.0, ge=0.0, description="repeat whole passes until the window is this long (s)")
    window_skip_s: float = Field(10.0, ge=0.0, description="windowed only: leave out this much at the start (s)")
    window_length_s: float = Field(30.0, gt=0.0, description="windowed only: and describe this much after it (s)")
    cool_down: CoolDownGate = CoolDownGate()


class _Options(_Part):
    extra: Annotated[dict[str, Any], AfterValidator(only_json)] = Field(
        default_factory=dict, description="passed to the engine's constructor, names and values untouched"
    )


class PytorchOptions(_Options):
    """transformers on PyTorch."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto is cuda where there is a GPU")
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = Field(
        None, description="None is the model's own choice"
    )
    torch_compile: bool = Field(False, description="compile the model's forward pass")


class VllmOptions(_Options):
    """vLLM's engine arguments that are swept most; any other goes into `extra`."""

    gpu_memory_utilization: float | None = Field(None, gt=0.0, le=1.0, description="share of the GPU's memory")
    max_num_seqs: int | None = Field(None, ge=1, description="sequences in one step")
    max_num_batched_tokens: int | None = Field(None, ge=1, description="tokens in one step")
    enable_chunked_prefill: bool | None = Field(None, description="split long prompts over steps")
    enable_prefix_caching: bool | None = Field(None, description="reuse the KV cache of equal prompt starts")
    kv_cache_dtype: str | None = Field(None, description="such as fp8")
    quantization: str | None = Field(None, description="such as awq, gptq, fp8")
    enforce_eager: bool | None = Field(None, description="no CUDA graphs")


class TrtOptions(_Options):
    """TensorRT-LLM's LLM arguments that are swept most; any other goes into `extra`."""

    max_batch_size: int | None = Field(None, ge=1, description="requests in one step")
    max_num_tokens: int | None = Field(None, ge=1, description="tokens in one step")
    kv_cache_free_gpu_memory_fraction: float | None = Field(
        None, gt=0.0, le=1.0, description="share of the memory left after loading that the KV cache gets"
    )
    enable_block_reuse: bool | None = Field(None, description="reuse the KV cache of equal prompt starts")
    scheduler_policy: Literal["max_utilization", "guaranteed_no_evict", "static_batch"] | None = Field(
        None, description="how requests are admitted"
    )


class StubOptions(_Options):
    """No model: sleeps for a told time and makes up deterministic tokens. For plumbing tests."""

    window_s: float = Field(0.1, ge=0.0, description="length of one pass over the workload (s)")
    load_s: float = Field(0.0, ge=0.0, description="time that loading takes (s)")
    noise: float = Field(0.0, ge=0.0, description="relative standard deviation of window_s, from seed and cycle")
    fail: Literal[
        "none", "model_unavailable", "out_of_memory", "gpu_unusable", "measurement_failed", "bug", "killed"
    ] = Field("none", description="way to fail")
    hang: Literal["none", "interruptible", "uninterruptible"] = Field(
        "none", description="never return; uninterruptible ignores SIGTERM, as a call stuck in a driver does"
    )
    when: Literal["load", "warm_up", "window"] = Field("window", description="where fail and hang take effect")
    rank: int | None = Field(None, ge=0, description="process in which fail and hang take effect; null is every one")
    slowdown_per_rank: float = Field(
        0.0, ge=0.0, description="each further process's window is longer by this part of window_s"
    )


class ExperimentConfig(_Part):
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
        if self.measurement.methodology != "total" and self.backend not in STAMPING_BACKENDS:
            raise ValueError(
                f"methodology {self.measurement.methodology} needs a time stamp on every token, which backend "
                f"'{self.backend}' does not give; set measurement.methodology: total"
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
    def model_path(self) -> Path | None:
        """The model's folder if it is a local one, else None."""
        return _local(self.model) if self.model.startswith(_LOCAL_PREFIXES) else None

    @property
    def prompt_file(self) -> Path | None:
        """The prompt file if the workload reads one, else None."""
        source = self.workload.source
        return None if source in ("builtin", "synthetic") else _local(source)

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
        own = self.model_dump(mode="json")
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
        return _file_digest(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigInvalid(f"the prompt file {path} cannot be read ({reason}).", "Correct workload.source.") from None


def _folder_digest(folder: Path) -> str:
    if not folder.is_dir():
        raise ModelUnavailable(f"the model folder {folder} is not there.", "Correct the path given as model.")
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
