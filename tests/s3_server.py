"""An object storage that speaks S3 over HTTP on loopback."""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

REGION = "us-east-1"
_KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": REGION}


@dataclass(frozen=True)
class S3Server:
    """One that runs.

    Attributes:
        url: its endpoint.
        client: of boto3, for S3.
    """

    url: str
    client: Any

    def bucket(self, name: str) -> str:
        self.client.create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, key: str, body: bytes = b"{}") -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=body)

    def upload(self, folder: Path, bucket: str, prefix: str) -> None:
        """Every file below `folder`, as ``prefix/its path``."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(bucket, f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def delete(self, bucket: str, key: str) -> None:
        self.client.delete_object(Bucket=bucket, Key=key)

    def user(self, name: str, *statements: dict[str, Any]) -> dict[str, str]:
        """The AWS_... variables of a new user who may do what the policy's statements say."""
        iam = boto3.client("iam", endpoint_url=self.url, **_KEYS)
        iam.create_user(UserName=name)
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        if statements:
            iam.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=policy)
        keys = iam.create_access_key(UserName=name)["AccessKey"]
        return {"AWS_ACCESS_KEY_ID": keys["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"]}

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """As long as it lasts, keys and policies are looked at; otherwise everybody may do everything."""
        self._set_unguarded_requests(0)
        try:
            yield
        finally:
            self._set_unguarded_requests(10**9)

    def _set_unguarded_requests(self, count: int) -> None:
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", str(count).encode(), {"Content-Type": "text/plain"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10):
            pass


@contextmanager
def running_s3_server() -> Iterator[S3Server]:
    # It would write a line for every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        yield S3Server(url, boto3.client("s3", endpoint_url=url, **_KEYS))
    finally:
        server.stop()


def point_to(monkeypatch: pytest.MonkeyPatch, url: str, home: Path) -> None:
    """Make `url` the object storage of this process and its children, whatever this machine is set up for."""
    for variable in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "credentials"))
