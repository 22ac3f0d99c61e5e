"""What becomes of a result when its place refuses it for a while: it has no other copy."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from images.contract.job import JobContext
from images.harness.publishing import delivery
from images.harness.publishing.bucket import Bucket
from images.harness.publishing.delivery import Delivery
from images.harness.publishing.place import PlaceAway, PlaceDenied, PlaceUnusable
from images.harness.publishing.publisher import Publisher
from tests.s3_server import S3Server, point_to, running_s3_server

HASH = "44136fa355b3678a"
EVERYTHING = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with running_s3_server() as running:
        point_to(monkeypatch, running.url, tmp_path)
        yield running


def finished(folder: Path) -> Path:
    directory = folder / "a-stub-44136fa3-c001_2026-11-21T08-04-01Z"
    directory.mkdir(parents=True)
    (directory / "result.json").write_text("{}")
    return directory


def test_rights_that_are_lost_while_a_job_measures_cost_time_and_no_result(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_PAUSE_S", 0.2)
    place, user = f"s3://{server.bucket(f'bucket-{secrets.token_hex(4)}')}/results", f"user-{secrets.token_hex(4)}"
    for name, value in server.user(user, EVERYTHING).items():
        monkeypatch.setenv(name, value)
    keys = server.user(f"admin-{user}", {"Effect": "Allow", "Action": "*", "Resource": "*"})
    signed = {"aws_access_key_id": keys["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": keys["AWS_SECRET_ACCESS_KEY"]}
    iam = boto3.client("iam", endpoint_url=server.url, region_name="us-east-1", **signed)
    policy = json.dumps({"Version": "2012-10-17", "Statement": [EVERYTHING]})

    def mended() -> None:
        time.sleep(1.5)
        iam.put_user_policy(UserName=user, PolicyName="own", PolicyDocument=policy)

    job = Delivery(place)
    job.begin(JobContext(cycle=1), HASH)
    iam.delete_user_policy(UserName=user, PolicyName="own")
    with server.guarded():
        with pytest.raises(PlaceDenied):
            Publisher(Bucket(place), HASH, 1).begin()
        mending = threading.Thread(target=mended)
        mending.start()
        job.result(finished(tmp_path), "exp_1")
        mending.join()
        assert Publisher(Bucket(place), HASH, 1).published() is not None


def test_what_stays_forbidden_ends_this_try_only(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_PAUSE_S", 0.1)
    monkeypatch.setattr(delivery, "_PATIENCE_S", 0.5)
    bucket = server.bucket(f"bucket-{secrets.token_hex(4)}")
    job = Delivery(f"s3://{bucket}/results")
    job.begin(JobContext(cycle=1), HASH)
    for one in server.client.list_objects_v2(Bucket=bucket)["Contents"]:
        server.delete(bucket, one["Key"])
    server.client.delete_bucket(Bucket=bucket)
    with pytest.raises(PlaceAway, match="there is no bucket"):
        job.result(finished(tmp_path), "exp_1")


class Overwriting(Bucket):
    """Storage that does not know put-if-absent."""

    def create(self, key: str, data: bytes) -> bool:
        self.remove(key)
        return super().create(key, data)


def test_storage_that_overwrites_is_refused_before_anything_is_measured(server: S3Server) -> None:
    place = Overwriting(f"s3://{server.bucket(f'bucket-{secrets.token_hex(4)}')}/results")
    with pytest.raises(PlaceUnusable, match="overwrites what it has"):
        Publisher(place, HASH, 1).begin()
