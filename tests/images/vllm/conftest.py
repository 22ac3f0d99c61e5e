"""The image with vLLM in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def vllm_image(built_image: Callable[[str], str]) -> str:
    return built_image("vllm")
