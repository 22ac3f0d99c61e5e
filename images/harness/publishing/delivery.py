"""What becomes of what a job leaves in its output folder: it stays for the runner, or the job publishes it itself."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from images.contract.job import ExitCode, JobContext, JobError, MeasurementFailed
from images.contract.publication import LastWord, Manifest
from images.contract.report import JobReport
from images.harness.publishing.folder import Folder
from images.harness.publishing.place import OBJECT_STORAGE, Place, PlaceAway, PlaceDenied, PlaceError, PlaceUnusable
from images.harness.publishing.publisher import Earlier, Publisher, publish_failure, publish_raw

log = logging.getLogger(__name__)

_ENDS_A_BLOCK = frozenset({ExitCode.USAGE, ExitCode.GPU_UNUSABLE, ExitCode.INTERRUPTED})
"""Whatever comes after it on the same GPUs would meet the same, or the job is to be run again."""

_PATIENCE_S, _PAUSE_S = 1800.0, 10.0
_BUCKET = "images.harness.publishing.bucket"
"""Imported late: its library is large, and only jobs that publish to object storage need it."""


class GpusGivenUp(JobError):
    """The process ends with USAGE, after which its Job is not tried again."""

    exit_code = ExitCode.GPU_UNUSABLE


@dataclass(slots=True)
class Delivery:
    """
    Attributes:
        address: folder or s3://bucket/prefix to publish to; None: somebody else does it.
        report: file for the job's last word; None: nobody asks.
        keep_going: exit with 0 after a failure that is published and that other experiments need not meet.
        most_tries: at this cycle that may end without a word, or with a broken GPU. None: the launcher counts.
        launch: whose tries count together; None: nobody says.
    """

    address: str | None = None
    report: Path | None = None
    keep_going: bool = False
    most_tries: int | None = None
    launch: str | None = None
    _publisher: Publisher | None = None

    def begin(self, context: JobContext, config_hash: str) -> JobContext | None:
        """The context with the number of this try; None if there is nothing to do: the cycle has its result, or the
        experiments after it in its block are tried again and it has failed.

        Raises:
            PlaceUnusable, PlaceAway: it cannot be published to, which is better known before measuring.
            MeasurementFailed: every try that is allowed has ended without a word.
            GpusGivenUp: or on a broken GPU.
        """
        if self.address is None:
            return context
        publisher = Publisher(place_at(self.address), config_hash, context.cycle, self.launch, context.pod)
        if (first := publisher.published()) is not None:
            log.info("this cycle has its result: %s", first.directory)
            self._say(JobReport(outcome="earlier", experiment_id=first.experiment_id, directory=first.directory))
            return None
        self._publisher = publisher  # before its mark is there: a signal may come at once, and takes it back
        earlier = publisher.begin()
        if self.keep_going and (failed := _recorded(earlier)) is not None:
            log.info("this cycle has failed before in this pod's Job: %s", failed.directory)
            self._say(JobReport(outcome="failure", directory=failed.directory, exit_code=failed.exit_code))
            publisher.take_back()
            return None
        self._require_hope(earlier)
        return context.model_copy(update={"attempt": earlier.n_tries + 1})

    def _require_hope(self, earlier: Earlier) -> None:
        if self.most_tries is None:
            return
        broken = sum(word.exit_code == ExitCode.GPU_UNUSABLE for word in earlier.words)
        if broken >= self.most_tries:
            raise GpusGivenUp(
                f"{broken} tries at this cycle found their GPUs unusable.",
                "Look at the nodes; run again when they work.",
            )
        if earlier.silent >= self.most_tries:
            raise MeasurementFailed(
                f"{earlier.silent} tries at this cycle ended without a word, as jobs do that are killed for their "
                "memory or lose their node.",
                "Lower batch_size or the workload's token limits, or give the container more memory.",
            )

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
        """Again and again while the place is away or forbidden: what was measured has no other copy."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return publisher.publish_result(directory, experiment_id)
            except (PlaceAway, PlaceDenied) as problem:
                if time.monotonic() > give_up_s:
                    # Not as unusable, which would end the Job's other pods, too.
                    raise PlaceAway(problem.message, problem.advice) from None
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
        self._mark(kept, LastWord(directory=published.directory if published else None, exit_code=int(error.exit_code)))
        if address is not None and published is not None and raw is not None:
            _publish_raw(address, raw, experiment_id)
        goes_on = self.keep_going and published is not None and error.exit_code not in _ENDS_A_BLOCK
        if goes_on:
            return int(ExitCode.OK)
        return int(ExitCode.USAGE if isinstance(error, GpusGivenUp) else error.exit_code)

    def _mark(self, kept: bool, word: LastWord) -> None:
        """How this try ended, beside its beginning; after its failure, which this names."""
        if self._publisher is None:
            return
        try:
            if kept:
                self._publisher.say(word)
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


def _recorded(earlier: Earlier) -> LastWord | None:
    """A failure that is published and that the block went on after."""
    went_on = [word for word in earlier.words if word.directory and word.exit_code not in _ENDS_A_BLOCK]
    return went_on[-1] if went_on else None


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
    try:
        bucket: Place = import_module(_BUCKET).Bucket(address)
    except ImportError as error:
        raise PlaceUnusable(f"object storage cannot be used here ({error}).", "Install what the image has.") from None
    return bucket
