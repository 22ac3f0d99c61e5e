"""What TensorRT-LLM raises is the configuration's fault, the model's, the GPU's or the engine's own, and never ours."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from images.contract.job import ConfigInvalid, JobError, MeasurementFailed, ModelUnavailable
from images.trt.errors import engine_errors
from tests.images.trt.jobs import Load, requests

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("gpu")]


@pytest.mark.parametrize("token_times", [False, True])
def test_an_engine_that_fails_while_it_runs_is_a_failed_measurement(
    load: Load, token_times: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEPS", "3")
    backend, _ = load(trt={"token_times": token_times})
    with pytest.raises(MeasurementFailed, match="engine failed while it ran: Executor worker died") as caught:
        backend.run(requests(ignore_eos=True))
    assert caught.value.advice
    with pytest.raises(MeasurementFailed):
        backend.run(requests()[:1])


@pytest.mark.parametrize(
    ("error", "loading", "kind"),
    [
        (RuntimeError("Executor worker died"), True, MeasurementFailed),
        (RuntimeError("Executor worker died"), False, MeasurementFailed),
        (ConnectionResetError("the worker's socket"), False, MeasurementFailed),
        (FileNotFoundError("no such file: model.safetensors"), True, ModelUnavailable),
        (ValueError("the prompt is too long"), False, ConfigInvalid),
    ],
)
def test_an_error_is_of_a_kind_that_fits_when_it_came(error: Exception, loading: bool, kind: type[JobError]) -> None:
    with pytest.raises(JobError) as caught, engine_errors(loading=loading):
        raise error
    assert type(caught.value) is kind
    assert str(error) in caught.value.message


def refuse_while_handling_something() -> None:
    try:
        raise FileNotFoundError("a file that it can do without")
    except FileNotFoundError:
        raise ValueError("no such field")  # noqa: B904


def test_what_the_engine_was_handling_when_it_refused_is_not_the_reason() -> None:
    with pytest.raises(ConfigInvalid, match="no such field"), engine_errors(loading=True):
        refuse_while_handling_something()
