"""C, Python and the hook agree on every byte of the node file."""

from __future__ import annotations

import ctypes
import runpy
import subprocess
from pathlib import Path

import pytest

from tests.gpu_node import layout
from tests.gpu_node.gpu import _FAULT_NUMBERS
from tests.gpu_node.library import SOURCES, build_library
from tests.gpu_node.node import HOST_FOLDER, Node

STRUCTS: dict[str, type[ctypes.Structure]] = {
    "point": layout.PointStruct,
    "load": layout.LoadStruct,
    "interval": layout.IntervalStruct,
    "fault": layout.FaultStruct,
    "process": layout.ProcessStruct,
    "gpu": layout.GpuStruct,
    "node": layout.NodeStruct,
}
CONSTANTS = ("MAX_GPUS", "MAX_POINTS", "MAX_LOADS", "MAX_INTERVALS", "MAX_FAULTS", "MAX_PROCESSES")


def _facts_of_c(expressions: list[str], folder: Path) -> list[int]:
    lines = "".join(f'printf("%llu\\n", (unsigned long long)({expression}));\n' for expression in expressions)
    program = folder / "facts.c"
    program.write_text(f'#include <stdio.h>\n#include "node.h"\nint main(void) {{\n{lines}return 0;\n}}\n')
    command = ["cc", "-std=gnu11", f"-I{SOURCES}", "-o", str(folder / "facts"), str(program)]
    subprocess.run(command, check=True, capture_output=True)
    return [int(line) for line in subprocess.check_output([folder / "facts"], text=True).split()]


@pytest.mark.usefixtures("gpu_library")
def test_every_member_lies_where_c_has_it(tmp_path: Path) -> None:
    expected: dict[str, int] = {f"{name}": getattr(layout, name) for name in CONSTANTS}
    expected |= {"GPU_NODE_MAGIC": layout.MAGIC, "GPU_NODE_VERSION": layout.VERSION}
    expected |= {kind.upper(): number for kind, number in _FAULT_NUMBERS.items()}
    for name, struct in STRUCTS.items():
        expected[f"sizeof(struct {name})"] = ctypes.sizeof(struct)
        for field in struct._fields_:
            member = getattr(struct, field[0])
            expected[f"offsetof(struct {name}, {field[0]})"] = member.offset
            expected[f"sizeof(((struct {name} *)0)->{field[0]})"] = member.size
    found = dict(zip(expected, _facts_of_c(list(expected), tmp_path), strict=True))
    assert found == expected


def test_no_member_is_left_out(tmp_path: Path) -> None:
    """Members that Python forgot at the end or in padding: the sizes of all members add up to the whole."""
    for struct in STRUCTS.values():
        assert sum(getattr(struct, field[0]).size for field in struct._fields_) == ctypes.sizeof(struct)


def test_the_hook_finds_the_uuids(tmp_path: Path) -> None:
    hook = runpy.run_path(str(SOURCES / "nvidia-container-runtime-hook"))
    assert hook["HOST"] == HOST_FOLDER
    assert hook["HEADER_BYTES"] == layout.NodeStruct.gpus.offset
    node = Node.create(tmp_path / "node", gpus=5)
    uuids = [gpu.uuid for gpu in node.gpus]
    with (tmp_path / "node").open("rb") as file:
        assert hook["uuids_of"](file.fileno()) == uuids
    choose = hook["choose"]
    assert choose("all", uuids) == uuids
    assert choose("none", uuids) == []
    assert choose(f"3,{uuids[1]}", uuids) == [uuids[1], uuids[3]]
    for wrong in ("5", "GPU-51a00000", "GPU-nope", f"{uuids[0]},", "-1"):
        with pytest.raises(SystemExit, match="unknown device"):
            choose(wrong, uuids)


def test_the_hook_leaves_the_host_alone_whatever_the_image_links_to(tmp_path: Path) -> None:
    hook = runpy.run_path(str(SOURCES / "nvidia-container-runtime-hook"))
    root = tmp_path / "root"
    root.mkdir()
    (root / "run").symlink_to(tmp_path / "host")
    with pytest.raises(SystemExit, match="leads out of it"):
        hook["folder_in"](root, "run/gpu-node")
    assert not (tmp_path / "host").exists()
    assert hook["folder_in"](root, "var/deep") == root / "var" / "deep"


@pytest.mark.usefixtures("gpu_library")
def test_a_build_is_kept_until_the_sources_change(tmp_path: Path) -> None:
    library = build_library(tmp_path)
    files = [library / name for name in ("libnvidia-ml.so.1", "libcuda.so.1")]
    first = [file.stat().st_ino for file in files]
    build_library(tmp_path)
    assert [file.stat().st_ino for file in files] == first
    (library / "built").write_text("of other sources")
    build_library(tmp_path)
    assert [file.stat().st_ino for file in files] != first


def test_the_library_needs_no_recent_glibc(gpu_library: Path) -> None:
    """The hook puts it into images that may be older than this machine."""
    for name in ("libnvidia-ml.so.1", "libcuda.so.1"):
        text = subprocess.check_output(["objdump", "-T", gpu_library / name], text=True)
        versions = {part.rstrip(")") for part in text.split() if "GLIBC_" in part}
        numbers = {tuple(map(int, version.split("GLIBC_")[1].split("."))) for version in versions}
        assert max(numbers) <= (2, 17)


@pytest.mark.parametrize(
    ("offsets_s", "watts", "period_s"),
    [([], [], 0), ([0, 1], [1], 0), ([1, 0], [1, 1], 0), ([0], [-1], 0), ([0, 2], [1, 1], 1), ([0], [float("nan")], 0)],
)
def test_a_curve_that_means_nothing_is_refused(
    tmp_path: Path, offsets_s: list[float], watts: list[float], period_s: float
) -> None:
    with pytest.raises(ValueError, match=r"curve|offsets|powers"):
        Node.create(tmp_path / "node", gpus=1).gpus[0].trace(offsets_s, watts, period_s)
