"""What a cluster has published already counts, is told, and comes home without measuring again."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from images.contract.job import ExitCode
from tests.runner.cluster.cluster_studies import IMAGES
from tests.runner.cluster.whole_cluster import Cluster, cells, client, every_cell, wait_until
from tests.runner.command import failures, results
from tests.s3_server import S3Server, point_to, running_s3_server

pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("shared-cluster")]


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3Server]:
    with running_s3_server() as running:
        point_to(monkeypatch, running.url, tmp_path)
        yield running


@pytest.fixture
def bucket(storage: S3Server) -> str:
    """A new one: all servers of a process hold the same ones."""
    return storage.bucket(f"measurements-{secrets.token_hex(4)}")


def in_bucket(cluster: Cluster, bucket: str, cycles: int = 2) -> Path:
    return cluster.study("a", "b", cycles=cycles, kubernetes={"results": f"s3://{bucket}/gpu"})


def edited(file: Path, **kubernetes: object) -> Path:
    document = yaml.safe_load(file.read_text())
    document["kubernetes"] |= kubernetes
    file.write_text(yaml.safe_dump(document))
    return file


def test_a_results_directory_that_was_lost_is_filled_again_without_a_pod(cluster: Cluster, bucket: str) -> None:
    file = in_bucket(cluster, bucket)
    cluster.run(file)
    first = {one.experiment_id for one in results(cluster.out)}
    shutil.rmtree(cluster.out)

    summary = cluster.run(file)

    assert (summary.n_results, summary.problem) == (4, None)
    assert {one.experiment_id for one in results(cluster.out)} == first
    assert len(cluster.pods.began) == 2, "the second run needed none"
    assert "4 cycles measured and published before, brought home" in cluster.lines()
    assert "another" not in cluster.lines()


def test_what_another_image_measured_counts_and_is_told_once(cluster: Cluster, bucket: str) -> None:
    file = in_bucket(cluster, bucket)
    cluster.run(file)
    shutil.rmtree(cluster.out)
    edited(file, images={"stub": IMAGES["stub"].replace("0123", "9876")})

    assert cluster.run(file).n_results == 4

    assert (
        cluster.lines().count("in another stub image (sha256:0123456789ab) than the study names now; it counts,") == 1
    )


def test_two_namespaces_that_share_a_bucket_do_not_take_each_others_results(cluster: Cluster, bucket: str) -> None:
    cluster.api.store.add("namespaces", {"metadata": {"name": "other"}, "status": {"phase": "Active"}})
    file = in_bucket(cluster, bucket)
    cluster.run(file)
    shutil.rmtree(cluster.out)

    assert cluster.run(edited(file, namespace="other")).n_results == 4
    assert len(cluster.pods.began) == 4, "all was measured there, too"


def test_a_reader_pod_that_goes_away_is_started_anew(cluster: Cluster) -> None:
    def readers() -> list[str]:
        return [pod["metadata"]["name"] for pod in cluster.api.objects("pods") if "-reader-" in pod["metadata"]["name"]]

    file = cluster.study("a", "b", cycles=4, placement="any", launcher={"max_parallel": 1})
    with cluster.follower(file) as follower:
        wait_until(lambda: len(results(cluster.out)) >= 1 if cluster.out.is_dir() else False)
        (first,) = readers()
        cluster.api.store.delete("pods", first, "bench")
        summary = follower.result(timeout=90)
    assert (summary.n_results, summary.problem) == (8, None)
    assert cells(cluster.out) == every_cell("a", "b", cycles=4)
    assert readers() == []


def test_a_bucket_that_is_not_there_is_one_line_before_anything_is_submitted(
    cluster: Cluster, storage: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = client(in_bucket(cluster, "nowhere"))
    assert ran.returncode == ExitCode.LAUNCHER
    last = ran.stderr.splitlines()[-1]
    assert "there is no bucket for s3://nowhere/gpu/study-" in last
    assert "correct kubernetes.results" in last
    stranger = storage.user(f"stranger-of-{bucket}")
    for name, value in stranger.items():
        monkeypatch.setenv(name, value)
    with storage.guarded():
        ran = client(in_bucket(cluster, bucket))
    assert ran.returncode == ExitCode.LAUNCHER
    assert "may not be read by you (ACCESS_DENIED)" in ran.stderr.splitlines()[-1]
    assert stranger["AWS_SECRET_ACCESS_KEY"] not in ran.stderr
    assert cluster.left() == []


def test_credentials_that_only_pods_have_wrong_are_told_by_the_job(
    cluster: Cluster, storage: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.pods.environment = storage.user(f"stranger-of-{bucket}")
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    for name, value in storage.user(f"owner-of-{bucket}", everything).items():
        monkeypatch.setenv(name, value)
    with storage.guarded():
        summary = cluster.run(in_bucket(cluster, bucket, cycles=1))
    assert summary.n_results == 0
    told = failures(cluster.out)
    assert told
    assert all(f"access to s3://{bucket}/gpu" in one.message for one in told)
    assert cluster.left() == []
