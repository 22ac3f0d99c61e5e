"""What killed runners left behind: their jobs are ended, what those had finished is kept, the rest is cleared away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from images.contract.failure import JobFailure
from images.contract.files import RESULT_FILE, UnreadableResult
from images.contract.job import ExitCode
from runner.launchers import Launcher, LaunchFailed, Running
from runner.layout import Attempt, Layout, slug, take_back
from runner.outcome import publish_result

Note = Callable[[str], None]


def recover(
    layout: Layout, launchers: Callable[[str], Launcher], own_study: str, own_launcher: str, note: Note
) -> None:
    """Clear up in one output directory, with the own study's lock held.

    A study whose lock is held has a living runner and is left alone.

    Args:
        launchers: a launcher by its name; only the one that started a job can end it.

    Raises:
        LaunchFailed, OSError: what the own study left could not be cleared away; nothing may start beside it.
    """
    for study in {slug(own_study), *layout.attempts(), *layout.abandoned()}:
        if study == slug(own_study):
            clear(study, layout, launchers, note)
            end_orphans(launchers(own_launcher), study, layout)  # also those without an attempt
            continue
        with layout.lock(study) as held:
            if held:
                try:
                    clear(study, layout, launchers, note)
                except (LaunchFailed, OSError) as error:
                    note(f"what study {study} left could not be cleared away: {error}")


def clear(study: str, layout: Layout, launchers: Callable[[str], Launcher], note: Note) -> None:
    """End the study's orphans, and say how many, publish what is whole, remove the rest. Its lock is held.

    Args:
        study: its slug.

    Raises:
        LaunchFailed: an orphan cannot be ended.
        OSError: something cannot be published; it stays for the next time.
    """
    attempts = layout.attempts().get(study, [])  # again, now that the study's lock is held
    for launcher in {_launcher_of(attempt) for attempt in attempts} - {None}:
        if n_ended := end_orphans(launchers(str(launcher)), study, layout):
            note(f"ended {n_ended} job{'s' if n_ended > 1 else ''} that an earlier runner of study {study} had left")
    for attempt in attempts:
        take_back(attempt.folder)
        finished = attempt.finished_directory()
        if finished is not None and not _was_interrupted(finished):
            kept = publish_result(attempt, finished, layout)
            note(f"published what an earlier runner of study {study} had finished: {kept.name}")
        layout.publish_raw(attempt)
        attempt.remove()


def end_orphans(launcher: Launcher, study: str, layout: Layout) -> int:
    """End every job of a study in this output, also one whose attempt is gone: an engine may make a container
    after the runner that asked for it was killed, and after the next one has cleared up. Its lock is held.

    Returns:
        How many.

    Raises:
        LaunchFailed: one cannot be ended.
    """
    found = [running for attempt, running in launcher.find(layout.attempts_folder) if layout.study_of(attempt) == study]
    for running in found:
        end(running)
    return len(found)


def end(running: Running) -> None:
    """End a job whose runner is dead; its files stay.

    Raises:
        LaunchFailed: it cannot be ended.
    """
    running.kill()
    running.collect()
    running.remove()


def _was_interrupted(directory: Path) -> bool:
    """That a job was ended from outside says nothing about its experiment; it simply runs again."""
    if (directory / RESULT_FILE).exists():
        return False
    try:
        return JobFailure.from_json(directory).exit_code == ExitCode.INTERRUPTED
    except UnreadableResult:
        return False


def _launcher_of(attempt: Attempt) -> str | None:
    """None if it was never started."""
    context = attempt.load_context()
    return None if context is None else context.launcher
