"""What of a study is in the cluster when a runner begins: Jobs to follow, and what stopped runs have left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from runner.cluster import names
from runner.cluster.api import Api, Object
from runner.cluster.observed import has_begun
from runner.cluster.submitted import Submitted, end, job_of, orphans, selector, submitted
from runner.interrupt import Stop
from runner.launchers import LaunchImpossible
from runner.studies.study import Study

_LOOK_EVERY_S = 1.0
_GOING_S = 60.0


def jobs_there(api: Api, study: Study, settings: str, stop: Stop, note: Callable[[str], None]) -> list[Submitted]:
    """This study's Jobs, once those that were removed before are gone, with their pods.

    What has not begun and was submitted with other settings is removed, too.

    Args:
        settings: `settings_digest` of the study as it is now.
        note: takes what the user should know, in a line.

    Raises:
        LaunchImpossible: one is of another version of the study.
    """
    _wait_for_orphans(api, study, stop, note)
    found = _to_follow(api, study, settings, _not_going(api, study), note)
    known = {one.config_hash for one in study.experiments}
    there = [one for job in found if (one := submitted(job)) is not None]
    strange = next((job.name for job in there if not {cell[0] for cell in job.cells} <= known), None)
    if strange is not None:
        raise LaunchImpossible(
            f"the Job {strange} is of another version of study '{study.name}'.",
            "End it with that version's `runner stop`, or choose another name.",
        )
    return there


def _wait_for_orphans(api: Api, study: Study, stop: Stop, note: Callable[[str], None]) -> None:
    """Pods that run on after a stop: whatever was started beside them would share their GPUs, or their work."""
    said = False
    while not stop.drain and (left := orphans(api, study)):
        if not said:
            said = True
            note(f"{counted(len(left), 'pod')} of a stopped run still at work; waiting for the end")
        time.sleep(_LOOK_EVERY_S)
    if stop.now:
        end(api, (), {pod["metadata"]["name"]: pod for pod in orphans(api, study)}, running_too=True)


def _not_going(api: Api, study: Study) -> list[Object]:
    give_up_s = time.monotonic() + _GOING_S
    found, _ = api.find("Job", selector(study))
    while any("deletionTimestamp" in job["metadata"] for job in found) and time.monotonic() < give_up_s:
        time.sleep(_LOOK_EVERY_S)
        found, _ = api.find("Job", selector(study))
    return found


def _to_follow(
    api: Api, study: Study, settings: str, jobs: Sequence[Object], note: Callable[[str], None]
) -> list[Object]:
    others = [job for job in jobs if (job["metadata"].get("annotations") or {}).get(names.SETTINGS) != settings]
    if not others:
        return list(jobs)
    begun = {job_of(pod) for pod in api.find("Pod", selector(study))[0] if has_begun(pod)}
    waiting = [one for job in others if job["metadata"]["name"] not in begun and (one := submitted(job)) is not None]
    end(api, waiting, {}, running_too=True)
    if waiting:
        note(f"{counted(len(waiting), 'Job')} with other settings or images had not begun; replaced")
    if n_begun := len(others) - len(waiting):
        note(
            f"{counted(n_begun, 'Job')} submitted with other settings or images at work; followed as submitted "
            "(`runner stop --now` ends what runs)"
        )
    removed = {one.name for one in waiting}
    return [job for job in jobs if job["metadata"]["name"] not in removed]


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
