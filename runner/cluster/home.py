"""What jobs in a cluster published is brought home, into the results directory, once and as it was sent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from images.contract import files
from images.contract.failure import JobFailure
from images.contract.job import JobContext
from images.contract.publication import UPLOADS, LastWord, Manifest, StoredFile, claim_key, said_key
from runner.cluster.images import Image
from runner.cluster.sources import Source
from runner.launchers import LaunchFailed, LaunchImpossible
from runner.layout import Layout
from runner.outcome import Cause, Outcome, written_down
from runner.studies.plan import Cell
from runner.studies.study import Job, Study


class Damaged(LaunchFailed):
    """What was published of one cycle; the others are not concerned."""


class Home:
    """
    Args:
        images: of this study, by backend.
        done: cells that have their result here.
        say: tell whoever watches, in one line.
    """

    def __init__(
        self,
        study: Study,
        layout: Layout,
        source: Source,
        images: Mapping[str, Image],
        done: set[Cell],
        say: Callable[[str], None],
    ) -> None:
        self._study, self._layout, self._source = study, layout, source
        self._images, self._say = images, say
        self._other_images: set[str] = set()
        self.done = done

    @property
    def early(self) -> bool:
        """Whether what is published can be asked for before any job has begun."""
        return self._source.early

    def bring_result(self, job: Job) -> Outcome | None:
        """The cycle's result, if there is one in the cluster and none here yet.

        Raises:
            Damaged: what is there is not this cycle's whole result.
            LaunchFailed: it cannot be read, or not be written here.
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
        self._compare_image(job, outcome)
        return outcome

    def bring_failure(self, job: Job, directory: str | None, launch: str, pod: str) -> Outcome | None:
        """A failure that was published; None if there is none.

        Args:
            directory: where, as its job said last; None where nothing is known of that.
            launch, pod: uid of its Job and name of its pod, under which the failure is found otherwise.
        """
        if directory is None:
            word = LastWord.parse(self._source.read(said_key(job.config_hash, job.cycle, launch, pod)))
            directory = None if word is None else word.directory
        raw = self._source.read(f"{directory}/{files.FAILURE_FILE}") if directory else None
        if raw is None or not directory:
            return None
        failure = JobFailure.model_validate_json(raw)
        there = self._layout.output / files.checked_name(directory)
        if there.is_dir():
            return Outcome(job, there, failure)
        stored = StoredFile(name=files.FAILURE_FILE, size_bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
        manifest = Manifest(experiment_id=failure.experiment_id, directory=directory, files=[stored])
        return self._bring(job, manifest, failure)

    def write_failure(
        self, job: Job, cause: Cause, log_tail: list[str], attempt: int, ended: datetime | None
    ) -> Outcome:
        """Of a job that could not say why it has no result.

        Args:
            ended: when; a failure of that moment that is here already is the same one.
        """
        context = JobContext(experiment=job.experiment.name, attempt=max(attempt, 1))
        failure = written_down(job, context, cause, log_tail, None, ended)
        for there in self._layout.output.glob(f"*{job.config_hash[:8]}*"):
            known = _failure_in(there)
            if known is not None and (known.cycle, known.time) == (failure.cycle, failure.time):
                return Outcome(job, there, known)
        return Outcome(job, failure.save(self._layout.output).parent, failure)

    def _compare_image(self, job: Job, outcome: Outcome) -> None:
        """Say so, once, if it was measured in another image than this study names: it counts all the same."""
        assert outcome.directory is not None
        document = files.read_json(outcome.directory / files.RESULT_FILE)
        measured = str((document.get("environment_snapshot") or {}).get("image_repo_digest") or "").rpartition("@")[2]
        named = self._images[job.config.backend].digest
        if measured and named and measured != named and measured not in self._other_images:
            self._other_images.add(measured)
            self._say(
                f"{outcome.directory.name} was measured in another {job.config.backend} image ({measured[:19]}) than "
                "the study names now; it counts, and so do others of that image. To measure anew, choose another name"
            )

    def _bring(self, job: Job, manifest: Manifest, failure: JobFailure | None) -> Outcome:
        try:
            return self._brought(job, manifest, failure)
        except OSError as error:
            raise LaunchImpossible(
                f"{self._layout.output} cannot take what is brought home ({error.strerror}).",
                "Make room there, or give the right to write; results stay there, and running again takes them.",
            ) from None

    def _brought(self, job: Job, manifest: Manifest, failure: JobFailure | None) -> Outcome:
        attempt = self._layout.new_attempt(self._study.name, job.cycle, 1)
        try:
            folder = attempt.folder / files.checked_name(manifest.directory)
            folder.mkdir()
            for file in manifest.files:
                (folder / files.checked_name(file.name)).write_bytes(self._whole(job, manifest, file))
            if failure is None:
                _require_cell(folder, job)
            for path in (*folder.iterdir(), folder):
                files.sync(path)
            return Outcome(job, self._layout.publish(folder), failure)
        finally:
            attempt.remove()

    def _whole(self, job: Job, manifest: Manifest, file: StoredFile) -> bytes:
        key = f"{manifest.directory}/{file.name}"
        # A pod that was killed after its manifest has left the files where they were on their way; and one that is at
        # it may have moved them between the first two.
        data = None
        for where in (key, f"{UPLOADS}/{manifest.experiment_id}/{file.name}", key):
            data = self._source.read(where)
            if data is not None:
                break
        if data is None or hashlib.sha256(data).hexdigest() != file.sha256:
            what = "is not there" if data is None else "is not what was sent"
            raise Damaged(
                f"{key} {what}: {len(data or b'')} of {file.size_bytes} bytes.",
                f"Look at the storage; remove {claim_key(job.config_hash, job.cycle)} there to measure anew.",
            )
        return data


def _require_cell(folder: Path, job: Job) -> None:
    """
    Raises:
        Damaged: what was published as this cycle's result is something else.
    """
    try:
        document = files.read_json(folder / files.RESULT_FILE)
    except (files.UnreadableResult, OSError):
        document = {}
    if (document.get("measurement_config_hash"), document.get("cycle")) != (job.config_hash, job.cycle):
        raise Damaged(
            f"what lies in the cluster as {folder.name} is not cycle {job.cycle} of '{job.experiment.name}'.",
            f"Look who else writes there; remove {claim_key(job.config_hash, job.cycle)} to measure anew.",
        )


def _failure_in(directory: Path) -> JobFailure | None:
    try:
        return JobFailure.from_json(directory)
    except (ValueError, OSError):
        return None
