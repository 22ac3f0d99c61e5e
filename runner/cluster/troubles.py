"""What keeps pods and Jobs from running: told once for each kind; what waiting does not help ends the study."""

from __future__ import annotations

import time
from collections.abc import Sequence

from runner.cluster.api import Api, Object
from runner.cluster.observed import (
    Trouble,
    has_begun,
    is_over,
    mount_trouble,
    quota_trouble,
    suspension_trouble,
    trouble_of,
)
from runner.cluster.submitted import job_of
from runner.launchers import LaunchImpossible
from runner.view.progress import Progress

_FATAL_AFTER_S = 600.0
_QUIET_S = 10.0
_SLOW_START_S = 30.0
_IN_QUEUE_S = 60.0


class Troubles:
    """
    Attributes:
        problem: why nothing more is to be submitted; None as long as there is hope.
    """

    def __init__(self, api: Api, progress: Progress) -> None:
        self._api, self._progress = api, progress
        self._said: set[tuple[str, str]] = set()
        self._since_s: dict[tuple[str, str], float] = {}
        self._events: dict[str, list[Object]] = {}
        self._asked_s: dict[str, float] = {}
        self._last_pod: dict[str, str] = {}
        self.problem: LaunchImpossible | None = None

    def look_at_pod(self, pod: Object) -> None:
        name, job, made = pod["metadata"]["name"], job_of(pod) or "", pod["metadata"].get("creationTimestamp") or ""
        self._last_pod[job] = max(self._last_pod.get(job, ""), made)
        trouble = trouble_of(pod)
        is_starting = bool(pod["spec"].get("nodeName")) and not has_begun(pod) and not is_over(pod)
        if trouble is None and self._for_long(name, "starting", is_starting, _SLOW_START_S):
            trouble = mount_trouble(pod, self._events_of(name))
        self._tell(name, trouble)

    def look_at_job(self, job: Object, pods: Sequence[Object]) -> None:
        """
        Args:
            pods: of this Job, as far as they are there.
        """
        name = job["metadata"]["name"]
        trouble = None
        if self._for_long(name, "queue", bool(job["spec"].get("suspend")), _IN_QUEUE_S):
            trouble = suspension_trouble(job)
        elif not pods and not job["spec"].get("suspend"):
            trouble = quota_trouble(name, self._events_of(name), self._last_pod.get(name))
        self._tell(name, trouble)

    def _tell(self, name: str, trouble: Trouble | None) -> None:
        if trouble is not None and (name, trouble.code) not in self._said:
            self._said.add((name, trouble.code))
            self._progress.note(str(trouble))
        is_fatal = trouble is not None and trouble.fatal
        if self._for_long(name, "fatal", is_fatal, _FATAL_AFTER_S) and trouble is not None:
            self.problem = self.problem or LaunchImpossible(trouble.message, trouble.advice)

    def _for_long(self, name: str, what: str, now: bool, limit_s: float) -> bool:
        """Whether that has been so without a break for as long."""
        if not now:
            self._since_s.pop((name, what), None)
            return False
        now_s = time.monotonic()
        return now_s - self._since_s.setdefault((name, what), now_s) >= limit_s

    def _events_of(self, name: str) -> list[Object]:
        """Asked for now and then only."""
        now_s = time.monotonic()
        asked_s = self._asked_s.get(name)
        if asked_s is None or now_s - asked_s >= _QUIET_S:
            self._asked_s[name] = now_s
            self._events[name] = self._api.events_of(name)
        return self._events[name]
