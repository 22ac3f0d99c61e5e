"""What jobs in a cluster published is brought home, into the results directory, once and as it was sent."""

from __future__ import annotations

import hashlib

from images.contract import files
from images.contract.failure import JobFailure
from images.contract.job import JobContext
from images.contract.publication import UPLOADS, Manifest, StoredFile, claim_key
from images.contract.report import JobReport
from runner.cluster.sources import Source
from runner.launchers import LaunchFailed
from runner.layout import Layout
from runner.outcome import Outcome, written_down
from runner.studies.plan import Cell
from runner.studies.study import Job, Study


class Home:
    """
    Args:
        done: cells that have their result here.
    """

    def __init__(self, study: Study, layout: Layout, source: Source, done: set[Cell]) -> None:
        self._study, self._layout, self._source = study, layout, source
        self.done = done

    def bring_result(self, job: Job) -> Outcome | None:
        """The cycle's result, if there is one in the cluster and none here yet.

        Raises:
            LaunchFailed: it cannot be read, or does not arrive as it was sent.
            OSError: it cannot be written here.
        """
        cell = (job.config_hash, job.cycle)
        if cell in self.done:
            return None
        raw = self._source.read(claim_key(*cell))
        manifest = None if raw is None else Manifest.parse(raw)
        if manifest is None:
            return None
        outcome = self._bring(job, manifest, None)
        self.done.add(cell)
        return outcome

    def bring_failure(self, job: Job, report: JobReport) -> Outcome | None:
        """A failure that was published; None if it is not there."""
        raw = None if report.directory is None else self._source.read(f"{report.directory}/{files.FAILURE_FILE}")
        if raw is None or report.directory is None:
            return None
        failure = JobFailure.model_validate_json(raw)
        there = self._layout.output / report.directory
        if there.is_dir():
            return Outcome(job, there, failure)
        stored = StoredFile(name=files.FAILURE_FILE, size_bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
        manifest = Manifest(experiment_id=failure.experiment_id, directory=report.directory, files=[stored])
        return self._bring(job, manifest, failure)

    def write_failure(self, job: Job, cause: tuple[str, int, str, str], log_tail: list[str], attempt: int) -> Outcome:
        """Of a job that could not say why it has no result."""
        context = JobContext(experiment=job.experiment.name, attempt=max(attempt, 1))
        failure = written_down(job, context, cause, log_tail, None)
        return Outcome(job, failure.save(self._layout.output).parent, failure)

    def _bring(self, job: Job, manifest: Manifest, failure: JobFailure | None) -> Outcome:
        attempt = self._layout.new_attempt(self._study.name, job.cycle, 1)
        try:
            folder = attempt.folder / files.checked_name(manifest.directory)
            folder.mkdir()
            for file in manifest.files:
                (folder / files.checked_name(file.name)).write_bytes(self._whole(manifest, file))
            for path in (*folder.iterdir(), folder):
                files.sync(path)
            return Outcome(job, self._layout.publish(folder), failure)
        finally:
            attempt.remove()

    def _whole(self, manifest: Manifest, file: StoredFile) -> bytes:
        key = f"{manifest.directory}/{file.name}"
        # A pod that was killed after its manifest has left the files where they were on their way.
        data = self._source.read(key) or self._source.read(f"{UPLOADS}/{manifest.experiment_id}/{file.name}")
        if data is None or hashlib.sha256(data).hexdigest() != file.sha256:
            what = "is not there" if data is None else "is not what was sent"
            raise LaunchFailed(
                f"{key} {what}: {len(data or b'')} of {file.size_bytes} bytes.",
                "Run again; if it stays so, look at the storage.",
            )
        return data
