"""Manifests hold what a strict API server asks for, and what no schema sees."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import product
from typing import Any

import kubernetes_validate
import pytest
import yaml

from images.contract.config import parse_config
from images.contract.job import ConfigInvalid, JobContext
from runner.cluster.pods import INPUTS_MOUNT, is_claim
from runner.cluster.render import RULES, Rules, render_rbac, render_study, rules_of
from runner.cluster.sources import reader_pod
from runner.studies.plan import plan_units
from runner.studies.settings import Adaptive, LauncherSettings
from runner.studies.study import Study
from tests.runner.cluster.cluster_studies import (
    DIGEST,
    IMAGES,
    cluster_study,
    containers,
    inputs_of,
    jobs,
    manifests,
    pod,
)
from tests.runner.sample_studies import experiment

VERSIONS = ("1.36", kubernetes_validate.latest_version())
HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
EVERYTHING: dict[str, Any] = {
    "results": "s3://bucket/prefix",
    "endpoint_url": "http://storage:9000",
    "credentials_secret": "s3",
    "token_secret": "hub",
    "models_claim": "models",
    "image_pull_secrets": ["registry"],
    "service_account": "bench",
    "run_as_user": None,
    "node_selector": {"gpu": "h100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "priority_class": "low",
    "queue": "gpus",
    "labels": {"cost-centre": "42"},
    "keep_s": 3600,
}
ON_A_CLAIM = {"results": "pvc://results", "endpoint_url": None, "credentials_secret": None, "namespace": None}
LONG = "A very long study name, as people who want to say everything in it write"[:60]


def studies() -> list[Study]:
    found = []
    for placement, settings, exclusive in product(("block", "any"), ({}, EVERYTHING), (False, True)):
        launcher = LauncherSettings(exclusive=exclusive)
        found.append(cluster_study("a", "b", placement=placement, kubernetes=settings, launcher=launcher))
    return [
        *found,
        cluster_study("alone"),
        cluster_study("a", "b", kubernetes=EVERYTHING | ON_A_CLAIM),
        cluster_study("a", "b", order="sequential"),
        cluster_study("a", cycles=Adaptive()),
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_what_a_strict_api_server_takes(version: str) -> None:
    documents = [one for study in studies() for one in manifests(study)]
    documents += [reader(study) for study in studies() if is_claim(study.kubernetes)]
    documents += yaml.safe_load_all(render_rbac("bench"))
    assert {one["kind"] for one in documents} == {"Job", "ConfigMap", "Pod", "Role"}
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(documents[1] | {"specs": {}}, version, strict=True)


def test_names_fit_wherever_kubernetes_puts_them_and_tell_studies_apart() -> None:
    seen = set()
    for name in (LONG, "a.b", "a-b", "x" * 60, "_"):
        for placement in ("block", "any"):
            base = cluster_study("A=1, b", "0", placement=placement)
            study = Study(name, base.experiments, 3, placement=placement, kubernetes=base.kubernetes)
            for job in jobs(study):
                own = job["metadata"]["name"]
                assert HOST_NAME.fullmatch(own)
                assert HOST_NAME.fullmatch(f"{own}-99999-abcde"), "its pods' names"
                assert own not in seen
                seen.add(own)
                tasks = [one["name"] for one in containers(job)]
                assert all(HOST_NAME.fullmatch(task) for task in tasks)
                assert len(set(tasks)) == len(tasks)
                labels = job["metadata"]["labels"] | job["spec"]["template"]["metadata"]["labels"]
                assert all(LABEL.fullmatch(value) for value in labels.values())
                assert job["metadata"]["annotations"]["joulehouse.io/study-name"] == name
    assert len(seen) == 5 * (3 + 2)


def test_a_blocks_containers_stand_in_the_blocks_order_and_ask_for_the_same_gpus() -> None:
    study = cluster_study("a", "b", "c", cycles=5)
    made = jobs(study)
    orders = [[job.experiment.name for job in unit.jobs] for unit in plan_units(study, range(1, 6))]
    assert len(made) == 5
    assert len({tuple(order) for order in orders}) > 1, "each block has an order of its own"
    for job, order in zip(made, orders, strict=True):
        assert [context(one, job, study)["experiment"] for one in containers(job)] == order
        assert [context(one, job, study)["scheduling"]["position"] for one in containers(job)] == [1, 2, 3]
        assert len(pod(job)["initContainers"]) == 2
        assert {one["resources"]["limits"]["nvidia.com/gpu"] for one in containers(job)} == {"1"}
        assert all("--keep-going" in one["args"] for one in containers(job))


def test_every_job_has_a_limit_of_its_own_and_the_pod_waits_for_them_all() -> None:
    def limits(**kubernetes: Any) -> tuple[list[str], int]:
        (job,) = jobs(replace(cluster_study("a", kubernetes=kubernetes), experiments=(tiny, downloaded), cycles=1))
        given = [one["args"][one["args"].index("--deadline") + 1] for one in containers(job)]
        return sorted(given), pod(job)["activeDeadlineSeconds"]

    tiny, downloaded = experiment("a"), experiment("b", backend="pytorch", model="team/model", stub=None)
    assert limits() == (["3600", "7200"], 3 * 3600 + 3600), "its download counts"
    assert limits(models_claim="hub") == (["3600", "3600"], 2 * 3600 + 3600)


def context(container: dict[str, Any], job: dict[str, Any], study: Study, index: int = 0) -> dict[str, Any]:
    """What the job of that container is told, read as the job reads it."""
    arguments = container["args"]
    inputs = next(
        inputs_of(one)
        for one in manifests(study)
        if one["kind"] == "ConfigMap"
        and one["metadata"] == {**one["metadata"], "name": pod(job)["volumes"][0]["configMap"]["name"]}
    )
    path = arguments[arguments.index("--context") + 1].replace("$(JOULEHOUSE_INDEX)", str(index))
    config = parse_config(inputs[arguments[arguments.index("--config") + 1].removeprefix(f"{INPUTS_MOUNT}/")])
    told: dict[str, Any] = inputs[path.removeprefix(f"{INPUTS_MOUNT}/")]
    assert JobContext.model_validate(told).measurement_config_hash == config.measurement_config_hash()
    return told


def test_without_blocks_every_index_is_a_cycle_and_only_what_may_go_better_is_tried_again() -> None:
    study = cluster_study("a", "b", cycles=4, placement="any", launcher=LauncherSettings(max_parallel=3))
    for job, name in zip(jobs(study), ("a", "b"), strict=True):
        spec = job["spec"]
        assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 3)
        told = [context(containers(job)[0], job, study, index) for index in range(4)]
        assert [(one["experiment"], one["cycle"]) for one in told] == [(name, cycle) for cycle in (1, 2, 3, 4)]
        rules = {rule["action"]: rule for rule in spec["podFailurePolicy"]["rules"]}
        assert next(iter(rules)) == "Ignore", "a drained node is looked at before any exit code"
        assert rules["FailIndex"]["onExitCodes"]["values"] == [10, 12]
        assert rules["FailJob"]["onExitCodes"]["values"] == [2]
        assert spec["backoffLimitPerIndex"] == 2


def test_a_single_experiment_is_one_indexed_job_whose_cycles_are_blocks_all_the_same() -> None:
    study = cluster_study("alone", cycles=3)
    (job,) = jobs(study)
    assert job["spec"]["completions"] == 3
    assert context(containers(job)[0], job, study)["scheduling"]["placement"] == "block"


def test_pods_may_do_nothing_that_a_restricted_namespace_forbids() -> None:
    for study in studies():
        readers = [reader(study)["spec"]] if is_claim(study.kubernetes) else []
        for spec in (*(pod(job) for job in jobs(study)), *readers):
            assert spec["restartPolicy"] == "Never"
            assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert spec["securityContext"].get("runAsUser") == study.kubernetes.run_as_user
            assert spec["securityContext"].get("runAsGroup", 0) == 0
            assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
            assert all(volume.keys() & {"configMap", "emptyDir", "persistentVolumeClaim"} for volume in spec["volumes"])
            for one in (*spec.get("initContainers", ()), *spec["containers"]):
                assert one["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert one["resources"]["requests"] == one["resources"]["limits"]


def reader(study: Study) -> dict[str, Any]:
    return reader_pod(study, "reader", IMAGES["stub"])


def mounts(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By the path that the container sees."""
    return {one["mountPath"]: one for one in container["volumeMounts"]}


def test_whatever_a_job_is_told_of_is_mounted_where_it_is_told() -> None:
    for study in studies():
        for job in jobs(study):
            volumes = {one["name"]: one for one in pod(job)["volumes"]}
            for one in containers(job):
                told = {one["args"][at]: one["args"][at + 1] for at in range(0, 12, 2)}
                seen = mounts(one)
                assert told["--config"].startswith("/inputs/")
                assert told["--context"].startswith("/inputs/")
                assert volumes[seen["/inputs"]["name"]]["configMap"]["name"] == job["metadata"]["name"]
                assert {"/tmp", told["--output"]} <= seen.keys(), (
                    "the only places to write, of a root that is read only"
                )
                assert volumes[seen["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
                assert (told["--report"], "File") == (one["terminationMessagePath"], one["terminationMessagePolicy"])
                variables = {each["name"]: each.get("value") for each in one["env"]}
                assert (variables.get("HF_HUB_CACHE") in seen) is (study.kubernetes.models_claim is not None)
                assert (told["--publish"] in seen) is is_claim(study.kubernetes)


def test_the_reader_serves_the_folder_that_jobs_publish_to_and_may_not_write_it() -> None:
    study = cluster_study("a", "b", kubernetes={"results": "pvc://results/team/gpu"})
    (served,) = reader(study)["spec"]["containers"]
    where = mounts(served)[served["command"][-1]]
    for job in jobs(study):
        for one in containers(job):
            published = mounts(one)[one["args"][one["args"].index("--publish") + 1]]
            assert published["subPath"] == where["subPath"]
    assert where["subPath"].startswith("team/gpu/study-")
    assert where["readOnly"] is True
    assert (
        served["readinessProbe"]["tcpSocket"]["port"]
        == int(served["command"][3])
        == served["ports"][0]["containerPort"]
    )


def test_pods_are_found_by_the_labels_that_they_have() -> None:
    """A label that nobody has would keep nothing away, and nothing together."""
    study = cluster_study("a", "b", launcher=LauncherSettings(exclusive=True))
    own = jobs(study)[0]["spec"]["template"]["metadata"]["labels"]
    (away,) = pod(jobs(study)[0])["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (beside,) = reader(study)["spec"]["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    for term in (away, beside["podAffinityTerm"]):
        assert term["topologyKey"] == "kubernetes.io/hostname"
        assert term["labelSelector"]["matchLabels"].items() <= own.items()
    assert not away["labelSelector"]["matchLabels"].items() <= reader(study)["metadata"]["labels"].items(), (
        "a reader measures nothing, and keeps no job away"
    )


def test_one_cycle_that_fails_ends_no_other_and_none_runs_twice_at_a_time() -> None:
    for study in studies():
        for job in jobs(study):
            spec = job["spec"]
            assert spec["podReplacementPolicy"] == "Failed", "a pod that is being ended still measures"
            assert spec.get("maxFailedIndexes", 0) in (0, spec["completions"])
            assert spec.get("backoffLimit", spec["completions"]) >= len(containers(job))
            first, *_ = spec["podFailurePolicy"]["rules"]
            assert first["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        assert all(one["immutable"] for one in manifests(study) if one["kind"] == "ConfigMap")


def test_whatever_a_pod_is_made_of_is_part_of_its_jobs_name() -> None:
    """Else a changed study would take up the Job, or the inputs, of the one before."""
    other = {"stub": IMAGES["stub"].replace("0123", "4567")}
    changed: list[dict[str, Any]] = [
        {},
        {"images": other},
        {"memory": "8Gi"},
        {"labels": {"cost-centre": "42"}},
    ]
    made = [jobs(cluster_study("a", "b", kubernetes=settings))[0]["metadata"] for settings in changed]
    assert len({one["name"] for one in made}) == len(changed)


def test_a_role_for_a_bucket_lets_no_pods_be_made_or_spoken_to() -> None:
    def allowed(rules: Rules) -> set[str]:
        (role,) = yaml.safe_load_all(render_rbac("bench", rules))
        return {f"{verb} {name}" for one in role["rules"] for name in one["resources"] for verb in one["verbs"]}

    every, bucket = allowed(RULES), allowed(rules_of(cluster_study("a", kubernetes=EVERYTHING).kubernetes))
    assert every - bucket == {"create pods", "get pods/proxy"}
    assert bucket < every
    for results in ("pvc://claim", None):
        assert rules_of(cluster_study("a", kubernetes={"results": results}).kubernetes) == RULES


def test_secrets_are_named_and_never_written() -> None:
    text = render_study(cluster_study("a", "b", kubernetes=EVERYTHING), allow_tag=False)
    assert "secretKeyRef" in text
    assert not re.search(r"name: (HF_TOKEN|AWS_SECRET_ACCESS_KEY)\n\s+value:", text)


def test_the_same_study_is_the_same_text() -> None:
    assert render_study(cluster_study("a", "b"), allow_tag=False) == render_study(
        cluster_study("a", "b"), allow_tag=False
    )


def test_shared_gpus_are_kept_away_from_and_kueue_starts_its_jobs_itself() -> None:
    (job, *_) = jobs(cluster_study("a", "b", kubernetes=EVERYTHING, launcher=LauncherSettings(exclusive=True)))
    affinity = pod(job)["affinity"]
    (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["time-slicing", "mps"]
    assert affinity["podAntiAffinity"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["spec"]["suspend"] is True


def test_a_prompt_file_travels_with_the_study(tmp_path: Any) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"tell {at}"}) + "\n" for at in range(3)))
    one = experiment("a", workload={"source": str(prompts), "n_prompts": 3})
    base = cluster_study("a")
    study = Study("s", (one,), 1, kubernetes=base.kubernetes)
    config_map, _ = manifests(study)
    inputs = inputs_of(config_map)
    source = inputs[f"config-{one.config_hash}.json"]["workload"]["source"]
    assert inputs[source.removeprefix(f"{INPUTS_MOUNT}/")] == prompts.read_text()
    prompts.write_text(json.dumps({"prompt": "x" * 1_100_000}))
    with pytest.raises(ConfigInvalid, match=r"take 1\.1 MB, and a ConfigMap holds 1 MB"):
        manifests(study)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"results": None}, "nothing says where results go"),
        ({"images": {}}, "no image is named for backend stub"),
        ({"images": {"stub": "registry.example/stub:1"}}, "a tag, which may mean another image tomorrow"),
        ({"images": {"stub": "Registry//x"}}, "is no image reference"),
    ],
)
def test_what_a_cluster_has_to_know_is_asked_for_in_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        manifests(cluster_study("a", kubernetes=settings))


def test_a_tag_is_taken_where_it_is_allowed_and_the_result_then_names_no_digest() -> None:
    study = cluster_study("a", kubernetes={"images": {"stub": "registry.example/stub:1"}})
    config_map, job = manifests(study, allow_tag=True)
    assert containers(job)[0]["image"] == "registry.example/stub:1"
    assert "image_repo_digest" not in inputs_of(config_map)["context-0.json"]
    digested = manifests(cluster_study("a"))[0]
    assert inputs_of(digested)["context-0.json"]["image_repo_digest"] == IMAGES["stub"]
    assert IMAGES["stub"].endswith(DIGEST)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"results": "results"}, "neither pvc://CLAIM"),
        ({"results": "pvc://c/../x"}, "neither pvc://CLAIM"),
        ({"gpu_resource": "nvidia.com/gpu.shared"}, "a part of a GPU"),
        ({"gpu_resource": "nvidia.com/mig-1g.5gb"}, "a part of a GPU"),
        ({"memory": "8 GB"}, "is not a quantity"),
        ({"run_as_user": 0}, "greater than or equal to 1"),
        ({"credentials_secret": "s"}, "is for results in object storage"),
        ({"queue": "a b"}, "is no label value"),
        ({"results": "s3://Measure_ments/x"}, "neither pvc://CLAIM"),
        ({"cpu": "0"}, "is nothing"),
        ({"memory": "512Mi", "shared_memory": "4Gi"}, "is a part of memory"),
        ({"labels": {"app.kubernetes.io/name": "mine"}}, "write themselves"),
        ({"tolerations": [{"kye": "gpu"}]}, "kye"),
        ({"tolerations": [{"key": "gpu", "operator": "Foo"}]}, "Exists"),
        ({"tolerations": [{"operator": "Equal", "value": "x"}]}, "needs operator Exists"),
        ({"tolerations": [{"key": "gpu", "operator": "Exists", "value": "x"}]}, "has no value"),
        ({"namespace": "Team A"}, "is no namespace"),
        ({"labels": {"cost centre": "42"}}, "is no label"),
        ({"node_selector": {"-gpu": "a100"}}, "is no label"),
        ({"token_secret": "My Secret"}, "is no name of an object"),
        ({"images": {"torch": "x"}}, "pytorch"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cluster_study("a", kubernetes=settings)
