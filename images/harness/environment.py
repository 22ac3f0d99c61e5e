"""Where a measurement runs: machine, image, versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from images.contract.job import JobContext
from images.contract.parts import EnvironmentSnapshot

_OWN_PACKAGES = ("numpy", "pyarrow", "pydantic")


def snapshot_environment(context: JobContext, packages: Iterable[str]) -> EnvironmentSnapshot:
    """What can be known before the model is loaded.

    Args:
        packages: the backend's distributions whose versions are recorded; absent ones are left out.
    """
    return EnvironmentSnapshot(
        image_name=context.image_name,
        image_id=context.image_id,
        image_repo_digest=context.image_repo_digest,
        git_revision=context.git_revision,
        launcher=context.launcher,
        python_version=platform.python_version(),
        platform=platform.platform(),
        cpu_model=_cpu_model(),
        cpu_count=len(os.sched_getaffinity(0)),
        memory_total_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6,
        package_versions={
            name: version for name in (*_OWN_PACKAGES, *packages) if (version := _version(name)) is not None
        },
        node=context.node or platform.node(),
        pod=context.pod,
    )


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
