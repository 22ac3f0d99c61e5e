"""What becomes of what a job leaves in its output folder: it stays for the runner, or the job publishes it itself."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from images.contract.job import ExitCode, JobContext, JobError, MeasurementFailed
from images.contract.publication import Manifest
from images.contract.report import JobReport
from images.harness.publishing.folder import Folder
from images.harness.publishing.place import OBJECT_STORAGE, Place, PlaceAway, PlaceError
from images.harness.publishing.publisher import Publisher, publish_failure, publish_raw

log = logging.getLogger(__name__)

_ENDS_A_BLOCK = frozenset({ExitCode.USAGE, ExitCode.GPU_UNUSABLE, ExitCode.INTERRUPTED})
"""Whatever comes after it on the same GPUs would meet the same, or the job is to be run again."""

_PATIENCE_S, _PAUSE_S = 1800.0, 10.0
_BUCKET = "images.harness.publishing.bucket"
"""Imported late: its library is large, and only jobs that publish to object storage need it."""


@dataclass(slots=True)
class Delivery:
    """
    Attributes:
        address: folder or s3://bucket/prefix to publish to; None: somebody else does it.
        report: file for the job's last word; None: nobody asks.
        keep_going: exit with 0 after a failure that is published and that other experiments need not meet.
        most_tries: at this cycle; a further one is a failure at once. None: the launcher counts.
    """

    address: str | None = None
    report: Path | None = None
    keep_going: bool = False
    most_tries: int | None = None
    _publisher: Publisher | None = None

    def begin(self, context: JobContext, config_hash: str) -> JobContext | None:
        """The context with the number of this try; None if the cycle has its result.

        Raises:
            PlaceUnusable, PlaceAway: it cannot be published to, which is better known before measuring.
            MeasurementFailed: every try that is allowed has ended without a word.
        """
        if self.address is None:
            return context
        publisher = Publisher(place_at(self.address), config_hash, context.cycle, context.pod)
        if (first := publisher.published()) is not None:
            log.info("this cycle has its result: %s", first.directory)
            self._say(JobReport(outcome="earlier", experiment_id=first.experiment_id, directory=first.directory))
            return None
        number, silent = publisher.begin()
        self._publisher = publisher
        if self.most_tries is not None and silent >= self.most_tries:
            raise MeasurementFailed(
                f"{silent} tries at this cycle ended without a word, as a job does that is killed for its memory.",
                "Lower batch_size or the workload's token limits, or give the container more memory.",
            )
        return context.model_copy(update={"attempt": number})

    def result(self, directory: Path, experiment_id: str) -> None:
        """
        Raises:
            PlaceUnusable, PlaceAway: it is not published.
        """
        if self._publisher is None:
            self._say(JobReport(outcome="result", experiment_id=experiment_id, directory=directory.name))
            return
        counted = self._published(self._publisher, directory, experiment_id)
        outcome = JobReport(outcome="result", experiment_id=counted.experiment_id, directory=counted.directory)
        self._say(
            outcome if counted.experiment_id == experiment_id else outcome.model_copy(update={"outcome": "earlier"})
        )

    def _published(self, publisher: Publisher, directory: Path, experiment_id: str) -> Manifest:
        """Again and again while the place is away: what was measured has no other copy."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return publisher.publish_result(directory, experiment_id)
            except PlaceAway as problem:
                if time.monotonic() > give_up_s:
                    raise
                log.warning("%s It is tried again.", problem.message)
                time.sleep(_PAUSE_S)

    def failure(self, error: JobError, directory: Path | None, experiment_id: str, raw: Path | None) -> int:
        """Publish a failure that is kept; returns the code to exit with.

        Args:
            directory: with failure.json; None if it could not be written.
            raw: what single processes measured; None if nothing.
        """
        kept = error.exit_code != ExitCode.INTERRUPTED
        address = self.address if kept and not isinstance(error, PlaceError) else None
        published = None
        if address is not None and directory is not None:
            published = _published_failure(address, directory, experiment_id)
        self._say(
            JobReport(
                outcome="failure" if kept else "interrupted",
                experiment_id=experiment_id if published else None,
                directory=published.directory if published else None,
                exit_code=int(error.exit_code),
                message=error.message,
                advice=error.advice,
            )
        )
        self._mark(kept, published.directory if published else "")
        if address is not None and published is not None and raw is not None:
            _publish_raw(address, raw, experiment_id)
        goes_on = self.keep_going and published is not None and error.exit_code not in _ENDS_A_BLOCK
        return int(ExitCode.OK if goes_on else error.exit_code)

    def _mark(self, kept: bool, directory: str) -> None:
        """How this try ended, beside its beginning; after its failure, which this names."""
        if self._publisher is None:
            return
        try:
            if kept:
                self._publisher.say(directory)
            else:
                self._publisher.take_back()
        except PlaceError as problem:
            log.error("%s", problem)

    def _say(self, report: JobReport) -> None:
        if self.report is None:
            return
        try:
            report.save(self.report)
        except OSError as problem:
            log.warning("%s could not be written: %s", self.report, problem)


def _published_failure(address: str, directory: Path, experiment_id: str) -> Manifest | None:
    """None if it could not be published."""
    try:
        return publish_failure(place_at(address), directory, experiment_id)
    except (PlaceError, OSError) as problem:
        log.error("the failure could not be published: %s", problem)
        return None


def _publish_raw(address: str, raw: Path, experiment_id: str) -> None:
    try:
        log.info("published %s", publish_raw(place_at(address), raw, experiment_id).directory)
    except (PlaceError, OSError) as problem:
        log.warning("what single processes measured could not be published: %s", problem)


def place_at(address: str) -> Place:
    """
    Raises:
        PlaceUnusable: the address makes no sense.
    """
    if not address.startswith(OBJECT_STORAGE):
        return Folder(Path(address))
    bucket: Place = import_module(_BUCKET).Bucket(address)
    return bucket
