"""Where raw results of single processes are looked for, once their experiment has failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from images.harness.ranks import raw_left

ID = "exp_20260102_030405_0a1b2c3d"


@pytest.mark.parametrize("name", [f"raw/{ID}", f".raw-{ID}"], ids=["put away", "the coordinator hangs"])
def test_they_count_once_a_process_completed(tmp_path: Path, name: str) -> None:
    assert raw_left(tmp_path, ID) is None
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "process_0.json").write_text("{}")
    assert raw_left(tmp_path, ID) is None
    (folder / ".completed_0").touch()
    assert raw_left(tmp_path, ID) == folder
    assert raw_left(tmp_path, "exp_20260102_030405_ffffffff") is None
