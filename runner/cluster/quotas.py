"""Whether a namespace's quotas leave room for a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from runner.cluster.api import Object, quantity
from runner.cluster.nodes import needs_of
from runner.cluster.pods import Manifest
from runner.view.checks import Check

_BARE = ("cpu", "memory", "ephemeral-storage")
"""Of these a quota may name requests without saying so."""


def check_quotas(pod: Manifest, n_jobs: int, quotas: Sequence[Object]) -> Iterator[Check]:
    """One line for each quota that counts what the study needs.

    Args:
        pod: spec of the one that asks for most. Its limits are its requests.
        n_jobs: how many Jobs are submitted at once, each with a ConfigMap.
    """
    of_pod = {"pods": Decimal(1), "count/pods": Decimal(1)}
    for resource, amount in needs_of(pod).items():
        of_pod |= {f"requests.{resource}": amount, f"limits.{resource}": amount}
        if resource in _BARE:
            of_pod[resource] = amount
    of_study = dict.fromkeys(("count/jobs.batch", "count/configmaps", "configmaps"), Decimal(n_jobs))
    for quota in quotas:
        if _counts(quota, pod):
            yield from _check(quota, of_pod, of_study)


def _check(quota: Object, of_pod: Mapping[str, Decimal], of_study: Mapping[str, Decimal]) -> Iterator[Check]:
    status = quota.get("status") or {}
    hard = status.get("hard") or (quota.get("spec") or {}).get("hard") or {}
    used = status.get("used") or {}
    wanted = {key: amount for key, amount in {**of_pod, **of_study}.items() if key in hard}
    limits = {key: quantity(hard[key]) for key in wanted}
    free = {key: limits[key] - quantity(used.get(key, 0)) for key in wanted}
    never = [key for key, amount in wanted.items() if amount > limits[key]]
    not_now = [key for key, amount in wanted.items() if amount > free[key]]
    told = "; ".join(
        f"{key}: {used.get(key, 0)} of {hard[key]} used, {_written(wanted[key])} needed"
        for key in never or not_now or wanted
    )
    name = f"quota {quota['metadata']['name']}"
    if never:
        yield Check(name, "problem", told, "Ask for a larger quota, or for less in the section kubernetes.")
    elif of_study.keys() & not_now:
        yield Check(name, "warning", told, "Wait for room: Jobs that do not fit are refused.")
    elif not_now:
        yield Check(name, "warning", told, "Pods wait for room.")
    elif wanted:
        yield Check(name, "ok", told)


def _counts(quota: Object, pod: Manifest) -> bool:
    """Whether a quota is of such pods. They have a deadline, and their limits are their requests."""
    spec = quota.get("spec") or {}
    chosen = (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    scopes = [*({"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()), *chosen]
    return all(_is_of(scope, pod) for scope in scopes)


def _is_of(scope: Mapping[str, object], pod: Manifest) -> bool:
    name = scope["scopeName"]
    if name == "PriorityClass":
        return _is_chosen(scope, pod.get("priorityClassName"))
    if name == "CrossNamespacePodAffinity":  # as `launcher.exclusive` has it
        return "namespaceSelector" in str(pod.get("affinity"))
    return name not in ("BestEffort", "NotTerminating")


def _is_chosen(scope: Mapping[str, object], own: object) -> bool:
    operator, values = scope["operator"], scope.get("values")
    if operator in ("Exists", "DoesNotExist"):
        return (own is not None) == (operator == "Exists")
    return (own in (values if isinstance(values, list) else ())) == (operator == "In")


def _written(amount: Decimal) -> str:
    """As Kubernetes would: bytes in binary units."""
    for unit, suffix in ((2**30, "Gi"), (2**20, "Mi")):
        if amount >= unit and amount % unit == 0:
            return f"{amount // unit:f}{suffix}"
    return f"{amount.normalize():f}"
