"""Which nodes a pod can go to, and what keeps it from the others, as the scheduler sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from runner.cluster.api import Object, quantity
from runner.cluster.pods import SHARING, SLICED, Manifest
from runner.view.checks import Check

_KEEPS_OUT = ("NoSchedule", "NoExecute")
_CORDONED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
_RULED_OUT = {SHARING: "sharing GPUs", SLICED: "cut into MIG slices"}
_MOST_REASONS = 4
_NOTHING = Decimal(0)


def needs_of(pod: Manifest) -> dict[str, Decimal]:
    """What a pod is promised at any time: its init containers run one after another, before its containers."""
    together: dict[str, Decimal] = {}
    for container in pod["containers"]:
        for resource, amount in _requests(container).items():
            together[resource] = together.get(resource, _NOTHING) + amount
    steps = [together, *(_requests(one) for one in pod.get("initContainers") or ())]
    return {resource: max(step.get(resource, _NOTHING) for step in steps) for step in steps for resource in step}


def _requests(container: Manifest) -> dict[str, Decimal]:
    resources = container.get("resources") or {}
    # What is limited, and not requested, is requested up to the limit.
    written = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {resource: quantity(amount) for resource, amount in written.items()}


def check_nodes(pod: Manifest, nodes: Sequence[Object], gpu_resource: str, *, is_final: bool) -> Check:
    """
    Args:
        pod: its spec.
        is_final: the spec is as the cluster would make it; else it may add a toleration for the taint of GPU nodes.
    """
    needed = needs_of(pod)
    reasons = [list(_reasons(pod, needed, node, gpu_resource)) for node in nodes]
    fitting = [node for node, why in zip(nodes, reasons, strict=True) if not why]
    found = f"{len(fitting)} of {len(nodes)} nodes can take a job's pod"
    if gpu_resource in needed:
        found += f", with {sum(_has(node, gpu_resource) for node in fitting)} {gpu_resource}"
    kept_out = Counter(" and ".join(why) for why in reasons if why)
    if kept_out:
        told = [f"{count} {why}" for why, count in kept_out.most_common(_MOST_REASONS)]
        found += f"; kept out: {', '.join(told)}{', and others' if len(kept_out) > _MOST_REASONS else ''}"
    if fitting:
        return Check("nodes", "ok", found)
    amounts = (pod["containers"][-1].get("resources") or {}).get("requests") or {}
    step = (
        f"A pod needs {', '.join(f'{amount} {resource}' for resource, amount in amounts.items())} on one node: correct "
        "kubernetes.{node_selector, tolerations, gpu_resource, cpu, memory, ephemeral_storage}, or the nodes. A "
        "cluster that adds nodes on demand may have them later."
    )
    tolerated_later = not is_final and any(
        len(why) == 1 and why[0].startswith((f"tainted {gpu_resource}:", f"tainted {gpu_resource}=")) for why in reasons
    )
    return Check("nodes", "warning" if tolerated_later else "problem", found, step)


def _reasons(pod: Manifest, needed: Mapping[str, Decimal], node: Object, gpu_resource: str) -> Iterator[str]:
    """All that keeps the pod out; of a node that is not meant at all, only that."""
    labels = node["metadata"].get("labels") or {}
    for key, value in (pod.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            yield f"without the label {key}={value}"
            return
    n_gpus = _has(node, gpu_resource)
    if n_gpus < needed.get(gpu_resource, _NOTHING):
        yield f"with only {n_gpus} {gpu_resource}" if n_gpus else f"without {gpu_resource}"
        return
    for key in _ruled_out_by(pod, labels):
        yield _RULED_OUT.get(key, f"that the affinity to {key} rules out")
    spec = node.get("spec") or {}
    tolerations = pod.get("tolerations") or ()
    if spec.get("unschedulable") and not _tolerated(_CORDONED, tolerations):
        yield "cordoned"
    for taint in spec.get("taints") or ():
        is_told = taint["key"] == _CORDONED["key"] and spec.get("unschedulable")
        if taint["effect"] in _KEEPS_OUT and not is_told and not _tolerated(taint, tolerations):
            value = f"={taint['value']}" if taint.get("value") else ""
            yield f"tainted {taint['key']}{value}:{taint['effect']}"
    for resource, amount in needed.items():
        if resource != gpu_resource and _has(node, resource) < amount:
            yield f"with too little {resource}"


def _has(node: Object, resource: str) -> Decimal:
    return quantity(((node.get("status") or {}).get("allocatable") or {}).get(resource, 0))


def _tolerated(taint: Mapping[str, str], tolerations: Sequence[Mapping[str, str]]) -> bool:
    return any(_tolerates(one, taint) for one in tolerations)


def _tolerates(toleration: Mapping[str, str], taint: Mapping[str, str]) -> bool:
    """A toleration without a key, or without an effect, is of all of them."""
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    operator = toleration.get("operator") or "Equal"
    is_equal = (toleration.get("value") or "") == (taint.get("value") or "")
    return operator == "Exists" or (operator == "Equal" and is_equal)


def _ruled_out_by(pod: Manifest, labels: Mapping[str, str]) -> list[str]:
    """Keys of the labels for which the required affinity to nodes fails; nothing where one of its terms holds."""
    affinity = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    failing = [
        [one["key"] for one in term.get("matchExpressions") or () if not _holds(one, labels)]
        for term in required.get("nodeSelectorTerms") or ()
    ]
    return [] if not all(failing) else next(iter(failing), [])


def _holds(expression: Manifest, labels: Mapping[str, str]) -> bool:
    own, operator = labels.get(expression["key"]), expression["operator"]
    if operator in ("In", "NotIn"):
        is_one_of: bool = own in (expression.get("values") or ())
        return is_one_of is (operator == "In")
    if operator in ("Exists", "DoesNotExist"):
        return (own is not None) is (operator == "Exists")
    return True  # of numbers, which none of ours asks for
