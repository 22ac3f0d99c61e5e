"""A local copy of what a cluster has of a study, kept up to date by watching; a connection that breaks is made anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from runner.cluster.api import Api, Kind, Object, TooOld
from runner.launchers import EngineAway, LaunchFailed

_WATCH_S = 240
_PAUSES_S = (0.2, 1.0, 2.0, 5.0, 10.0)


class Mirror:
    """Objects of one kind, by name. Its thread ends with the context.

    Args:
        patience_s: how long the cluster may be away before that is a problem.
    """

    def __init__(self, api: Api, kind: Kind, selector: str, changed: threading.Event, patience_s: float) -> None:
        self._api, self._kind, self._selector = api, kind, selector
        self._changed, self._patience_s = changed, patience_s
        self._objects: dict[str, Object] = {}
        self._gone: list[Object] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._problem: LaunchFailed | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {kind}", daemon=True)

    def __enter__(self) -> Mirror:
        """
        Raises:
            LaunchFailed: they cannot be listed.
        """
        self._version = self._relist()
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopped.set()  # its connection ends by itself; the thread is no reason to wait

    def objects(self) -> Mapping[str, Object]:
        """As they were last heard of.

        Raises:
            LaunchFailed: nothing was heard for longer than there is patience, or never will be.
        """
        with self._lock:
            if self._problem is not None:
                raise self._problem
            return dict(self._objects)

    def take_gone(self) -> list[Object]:
        """Objects that were removed since this was asked last, as they were in the end: what they said still counts."""
        with self._lock:
            gone, self._gone = self._gone, []
            return gone

    def _relist(self) -> str:
        found, version = self._api.find(self._kind, self._selector)
        there = {one["metadata"]["name"]: one for one in found}
        self._heard_s = time.monotonic()
        with self._lock:
            self._gone += [one for name, one in self._objects.items() if name not in there]
            self._objects = there
        self._changed.set()
        return version

    def _run(self) -> None:
        failures, self._heard_s = 0, time.monotonic()
        while not self._stopped.is_set():
            try:
                self._follow()
                failures = 0
                self._stopped.wait(_PAUSES_S[0])
            except TooOld:
                self._stopped.wait(_PAUSES_S[0])
                failures += self._again()
            except EngineAway as error:
                if time.monotonic() - self._heard_s > self._patience_s:
                    self._give_up(error)
                    return
                failures += 1
                self._stopped.wait(_PAUSES_S[min(failures, len(_PAUSES_S)) - 1])
                failures += self._again()
            except LaunchFailed as error:
                self._give_up(error)
                return

    def _again(self) -> int:
        """List anew: what happened while nobody watched is in no watch. Returns failures."""
        try:
            self._version = self._relist()
        except EngineAway:
            return 1
        except LaunchFailed as error:
            self._give_up(error)
            self._stopped.set()
        return 0

    def _follow(self) -> None:
        for what, found in self._api.changes(self._kind, self._selector, self._version, _WATCH_S):
            if self._stopped.is_set():
                return
            self._heard_s = time.monotonic()
            self._version = found["metadata"].get("resourceVersion", self._version)
            with self._lock:
                if what == "DELETED":
                    self._objects.pop(found["metadata"]["name"], None)
                    self._gone.append(found)
                elif what != "BOOKMARK":
                    self._objects[found["metadata"]["name"]] = found
            self._changed.set()

    def _give_up(self, error: LaunchFailed) -> None:
        with self._lock:
            self._problem = error
        self._changed.set()
