"""Which nodes count: where the scheduler would put a job's pod."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runner.cluster.api import quantity
from runner.cluster.nodes import check_nodes, needs_of
from runner.view.checks import Check
from tests.runner.cluster.cluster_studies import cluster_study, jobs, pod
from tests.runner.sample_studies import experiment

GPU = "nvidia.com/gpu"
ROOMY = {"cpu": "31850m", "memory": "64Gi", "ephemeral-storage": "100Gi"}
CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
GPU_TAINT = {"key": GPU, "value": "present", "effect": "NoSchedule"}


def node(
    *taints: dict[str, str], labels: dict[str, str] | None = None, cordoned: bool = False, gpus: str = "8", **has: str
) -> Any:
    spec = {"taints": list(taints), **({"unschedulable": True} if cordoned else {})}
    named = {key.replace("_", "-"): value for key, value in has.items()}
    return {"metadata": {"labels": labels or {}}, "spec": spec, "status": {"allocatable": ROOMY | named | {GPU: gpus}}}


def check(*nodes: Any, is_final: bool = True, **settings: Any) -> Check:
    (job, *_) = jobs(cluster_study("a", "b", kubernetes=settings))
    return check_nodes(pod(job), nodes, GPU, is_final=is_final)


def test_a_node_with_room_counts_with_its_gpus() -> None:
    seen = check(node(), node())
    assert (seen.state, seen.found) == ("ok", "2 of 2 nodes can take a job's pod, with 16 nvidia.com/gpu")


@pytest.mark.parametrize(
    ("unfit", "why"),
    [
        (node(CORDON, cordoned=True), "cordoned"),
        (node(cordoned=True), "cordoned"),
        (node(GPU_TAINT), "tainted nvidia.com/gpu=present:NoSchedule"),
        (
            node({"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}),
            "tainted node.kubernetes.io/not-ready:NoExecute",
        ),
        (node(labels={"nvidia.com/gpu.slices.gi": "1"}), "cut into MIG slices"),
        (node(labels={"nvidia.com/gpu.sharing-strategy": "mps"}), "sharing GPUs"),
        (node(cpu="3999m"), "with too little cpu"),
        (node(memory="2Gi"), "with too little memory"),
        (node(ephemeral_storage="19Gi"), "with too little ephemeral-storage"),
        (node(GPU_TAINT, cpu="1", gpus="0"), "without nvidia.com/gpu"),
        (node(GPU_TAINT, cpu="1"), "tainted nvidia.com/gpu=present:NoSchedule and with too little cpu"),
    ],
)
def test_what_keeps_a_pod_out_is_named_and_such_a_node_does_not_count(unfit: Any, why: str) -> None:
    alone = check(unfit)
    assert alone.state == "problem"
    assert alone.found == f"0 of 1 nodes can take a job's pod, with 0 nvidia.com/gpu; kept out: 1 {why}"
    assert "A pod needs 4 cpu, 16Gi memory, 20Gi ephemeral-storage, 1 nvidia.com/gpu on one node" in alone.next_step
    beside = check(unfit, node(), unfit)
    assert beside.state == "ok"
    assert beside.found.endswith(f"1 of 3 nodes can take a job's pod, with 8 nvidia.com/gpu; kept out: 2 {why}")


def test_a_job_of_several_gpus_needs_them_on_one_node() -> None:
    (job,) = jobs(replace(cluster_study(), experiments=(experiment("a", gpus=4),)))
    seen = check_nodes(pod(job), [node(gpus="2"), node(gpus="2"), node(gpus="0")], GPU, is_final=True)
    assert seen.state == "problem"
    assert seen.found.endswith("kept out: 2 with only 2 nvidia.com/gpu, 1 without nvidia.com/gpu")
    assert check_nodes(pod(job), [node(gpus="4")], GPU, is_final=True).state == "ok"


def test_the_selected_label_must_be_there() -> None:
    seen = check(node(), node(labels={"gpu": "a100"}), node(labels={"gpu": "h100"}), node_selector={"gpu": "h100"})
    assert seen.found.startswith("1 of 3")
    assert seen.found.endswith("kept out: 2 without the label gpu=h100")


@pytest.mark.parametrize(
    ("toleration", "is_tolerated"),
    [
        ({"operator": "Exists"}, True),
        ({"key": GPU, "operator": "Exists"}, True),
        ({"key": GPU, "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": GPU, "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": GPU, "operator": "Equal", "value": "present"}, True),
        ({"key": GPU, "value": "present", "effect": "NoSchedule"}, True),
        ({"key": GPU, "operator": "Equal", "value": "absent"}, False),
        ({"key": GPU}, False),
        ({"key": "amd.com/gpu", "operator": "Exists"}, False),
    ],
)
def test_a_taint_is_tolerated_as_the_scheduler_has_it(toleration: dict[str, str], is_tolerated: bool) -> None:
    assert (check(node(GPU_TAINT), tolerations=[toleration]).state == "ok") is is_tolerated


def test_a_taint_that_only_prefers_keeps_nobody_out_and_a_cordoned_node_can_be_tolerated() -> None:
    assert check(node({"key": "busy", "effect": "PreferNoSchedule"})).state == "ok"
    cordon = [{"key": CORDON["key"], "operator": "Exists"}]
    assert check(node(CORDON, cordoned=True), tolerations=cordon).state == "ok"


def test_a_toleration_that_the_cluster_may_add_leaves_room_for_doubt() -> None:
    """Some add one for the taint of GPU nodes; of a pod that was tried it would be seen."""
    assert check(node(GPU_TAINT), is_final=False).state == "warning"
    assert check(node(GPU_TAINT, cpu="1"), is_final=False).state == "problem"
    assert check(node({**GPU_TAINT, "key": f"{GPU}-2"}), is_final=False).state == "problem"


def test_a_pod_needs_what_the_largest_of_its_steps_needs() -> None:
    def asks(**amounts: str) -> dict[str, Any]:
        return {"resources": {"requests": amounts}}

    steps = {
        "initContainers": [asks(cpu="500m", memory="3Gi"), asks(cpu="4")],
        "containers": [asks(cpu="1", memory="1Gi"), asks(cpu="1.5")],
    }
    assert needs_of(steps) == {"cpu": 4, "memory": quantity("3Gi")}
    assert needs_of({"containers": [{"resources": {"limits": {"cpu": "2"}}}, {}]}) == {"cpu": 2}


def test_a_study_on_the_cpu_is_told_of_no_gpus() -> None:
    (job,) = jobs(cluster_study("a"))
    spec = pod(job)
    for amounts in spec["containers"][0]["resources"].values():
        del amounts[GPU]
    seen = check_nodes(spec, [node(gpus="0")], GPU, is_final=True)
    assert (seen.state, seen.found) == ("ok", "1 of 1 nodes can take a job's pod")
