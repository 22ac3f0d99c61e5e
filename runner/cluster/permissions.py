"""What a user of a cluster may do there, against what a study needs."""

from __future__ import annotations

from runner.cluster.api import Api
from runner.cluster.render import rules_of
from runner.launchers import LaunchImpossible
from runner.studies.study import Study

ADVICE = "Ask for the Role that `runner render --rbac` prints."


def missing_permissions(study: Study, api: Api) -> list[str]:
    """Verb and resource of each that is needed and not given.

    Raises:
        LaunchFailed: the cluster cannot be asked.
    """
    return [
        f"{verb} {resource}"
        for group, resources, verbs in rules_of(study.kubernetes)
        for resource in resources
        for verb in verbs
        if not api.may(verb, group, resource)
    ]


def require_permissions(study: Study, api: Api) -> None:
    """
    Raises:
        LaunchImpossible: some are missing, which is better known before anything is submitted.
    """
    if missing := missing_permissions(study, api):
        raise LaunchImpossible(f"you may not {', '.join(missing)} in the namespace {api.namespace}.", ADVICE)
