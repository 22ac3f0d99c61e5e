"""A study on a cluster: submit, follow, bring home, until every cycle has its result. The cluster does the rest.

Whoever dies, the client or a node, nothing is lost: the Jobs go on, what they measured is published before their pods
end, and running again takes all of it up.
"""

from __future__ import annotations

from images.contract.scheduling import AdaptiveCycles
from images.contract.study import STUDY_FILE, StudyRecord
from runner.cluster.api import Api
from runner.cluster.following import Follower
from runner.cluster.home import Home
from runner.cluster.images import study_images
from runner.cluster.permissions import require_permissions
from runner.cluster.pods import require_place
from runner.cluster.sources import source_of
from runner.interrupt import Stop
from runner.layout import Layout, slug
from runner.schedule import StudyBusy, Summary
from runner.studies.cycles import CycleGoal
from runner.studies.record import claim
from runner.studies.scan import scan
from runner.studies.study import Study
from runner.view.progress import Progress


def run_on_cluster(
    study: Study, layout: Layout, api: Api, progress: Progress, stop: Stop, *, allow_tag: bool, extend: bool
) -> Summary:
    """Run what the study has no results of yet.

    Raises:
        OutputUnusable, StudyBusy, NotThisStudy: as of a study on this host.
        ConfigInvalid: something that a cluster needs to know is not said.
        LaunchFailed: the cluster, or the place of the results, cannot be used.
    """
    require_place(study)
    api.require_namespace()
    require_permissions(study, api)
    images = study_images(study, allow_tag=allow_tag)
    layout.prepare()
    with layout.lock(study.name) as held:
        if not held:
            raise StudyBusy(f"another runner follows study '{study.name}' in {layout.output}.", "Wait for it.")
        began_before = (layout.output / STUDY_FILE).exists()
        with layout.alone():
            record = claim(layout, study, extend, on_gpus=study.launcher.gpus != "none")
        for attempt in layout.attempts().get(slug(study.name), []):
            attempt.remove()  # half brought home by a runner that was killed; it is still where it was
        reader = next(iter(images.values())).reference
        with source_of(study, api, reader, began_before=began_before) as source:
            done = set(scan(layout.output, study).results)
            home = Home(study, layout, source, images, done, progress.note)
            return _run_cycles(study, record, layout, Follower(study, layout, api, progress, stop, home), allow_tag)


def _run_cycles(
    study: Study, record: StudyRecord | None, layout: Layout, follower: Follower, allow_tag: bool
) -> Summary:
    goal = CycleGoal(study, record.cycles if record and isinstance(record.cycles, AdaptiveCycles) else None)
    wanted = goal.wanted(scan(layout.output, study))
    follower.begin(wanted)
    tried: set[int] = set()
    while new := [cycle for cycle in wanted if cycle not in tried]:
        follower.run(new, allow_tag)
        published = scan(layout.output, study)
        tried.update(new)
        if follower.stopped:
            break
        if found := goal.look(published, tried, ()):
            follower.progress.note(found)
        wanted = goal.wanted(published, tried, ())
        if tried.issuperset(wanted):
            goal.close()
        if record is not None and goal.adaptive is not None:
            record.model_copy(update={"cycles": goal.adaptive}).save(layout.output)
        follower.progress.grow(len(study.experiments) * len(wanted))
    return follower.summary(wanted, goal.adaptive)
