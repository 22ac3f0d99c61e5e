"""bitsandbytes, which has kernels for the CPU too."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("torch")

from images.contract.job import ConfigInvalid
from tests.images.pytorch.tiny import PROMPTS, load, requests

pytestmark = pytest.mark.torch

FLOAT32_MB = 1.447552
NF4 = {
    "quantization": "bnb_4bit",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_use_double_quant": True,
}


@pytest.mark.parametrize("options", [{"quantization": "bnb_8bit"}, NF4], ids=["8 bit", "4 bit"])
def test_a_quantized_model_is_smaller_and_generates(options: dict[str, object]) -> None:
    pytest.importorskip("bitsandbytes")
    backend, loaded = load(pytorch=options)
    generations = backend.run(requests(PROMPTS, max_output_tokens=3, ignore_eos=True))
    assert [len(one.output_ids) for one in generations] == [3] * len(PROMPTS)
    assert loaded.findings == ()
    assert loaded.observed_settings["quantization"] == "bitsandbytes"
    assert loaded.parameters == 361856  # of the model, however they are packed
    weights_mb = backend.memory().weights_mb
    assert weights_mb is not None
    # Embedding, head and norms stay; the rest is a quarter or an eighth, and has scales.
    kept_mb = (2 * 259 * 128 + 5 * 128) * 4 / 1e6
    share = (weights_mb - kept_mb) / (FLOAT32_MB - kept_mb)
    packed = 0.25 if options["quantization"] == "bnb_8bit" else 0.125
    assert packed < share < packed * 1.2


def test_quantization_without_bitsandbytes_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigInvalid) as caught:
        load(pytorch={"quantization": "bnb_8bit"})
    assert "\n" not in caught.value.message
