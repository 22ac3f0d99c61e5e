"""Object storage as a source: what is found there, what is fetched of it, and what goes wrong on the way."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3_server import S3Server, point_to, running_s3_server
from tests.warehouse.results import make_result, rows, samples_table, save, save_failure, warehouse
from warehouse.errors import WarehouseError
from warehouse.intake.object_storage import MAX_BYTES, ObjectStorage
from warehouse.intake.sources import Candidate, LocalSource, Unreachable

SECRET = "a-secret-that-nobody-may-see"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running_s3_server() as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket that the environment points to."""
    point_to(monkeypatch, server.url, tmp_path)
    return server.bucket(f"bucket-{secrets.token_hex(4)}")


def scanned(address: str) -> list[Candidate]:
    return list(ObjectStorage.open(address).scan({}))


def names(address: str) -> list[str]:
    return [candidate.name.removeprefix(address) for candidate in scanned(address)]


def test_the_same_directories_are_found_as_on_disk_in_the_same_order(server: S3Server, bucket: str, root: Path) -> None:
    for path in (
        "b/result.json",
        "b-2/result.json",
        "b/inner/result.json",
        "a/failure.json",
        "z/lost/requests.parquet",
        "folder/timeseries.parquet",
        "folder/x/result.json",
        "folder/other/notes.txt",
        ".a.tmp-1/result.json",
        "z/.raw-1/result.json",
        "ü %20+?#*[x]/result.json",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("{}")
    server.upload(root, bucket, "deep/prefix")
    local = [candidate.name.removeprefix(str(root)) for candidate in LocalSource(root).scan({})]
    assert names(f"s3://{bucket}/deep/prefix") == local
    assert local == ["/a", "/b", "/b-2", "/folder/x", "/z/lost", "/ü %20+?#*[x]"]
    assert names(f"s3://{bucket}/deep/prefix/b") == [""]
    assert names(f"s3://{bucket}") == [f"/deep/prefix{name}" for name in local]


def test_what_is_fetched_is_what_was_saved_and_is_gone_afterwards(server: S3Server, bucket: str, root: Path) -> None:
    saved = [save(root, make_result(number), samples=samples_table([(0.0, 1.0)])) for number in range(20)]
    saved.append(save_failure(root))
    (saved[0] / "notes.txt").write_text("not read by anybody")
    server.upload(root, bucket, "results")
    source = ObjectStorage.open(f"s3://{bucket}/results/")
    batch = list(source.scan({}))
    by_name = {f"s3://{bucket}/results/{directory.name}": directory for directory in saved}
    assert sorted(by_name) == [candidate.name for candidate in batch]
    with source.fetched(batch) as copies:
        for candidate, copy in zip(batch, copies, strict=True):
            assert isinstance(copy, Path)
            expected = {path.name: path.read_bytes() for path in by_name[candidate.name].iterdir()}
            expected.pop("notes.txt", None)
            assert {path.name: path.read_bytes() for path in copy.iterdir()} == expected
            assert candidate.n_bytes == sum(map(len, expected.values()))
    assert not any(isinstance(copy, Path) and copy.parent.exists() for copy in copies)


def test_a_signature_changes_with_what_is_read_and_with_nothing_else(server: S3Server, bucket: str) -> None:
    server.put(bucket, "p/a/result.json", b"{}")
    before = scanned(f"s3://{bucket}/p")
    server.put(bucket, "p/a/notes.txt", b"new")
    assert scanned(f"s3://{bucket}/p") == before
    server.put(bucket, "p/a/requests.parquet", b"new")
    with_sidecar = scanned(f"s3://{bucket}/p")
    server.put(bucket, "p/a/result.json", b"{ }")
    signatures = {found[0].signature for found in (before, with_sidecar, scanned(f"s3://{bucket}/p"))}
    assert len(signatures) == 3


def test_what_vanishes_or_grows_is_unreachable_and_the_others_go_on(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_BYTES, "result.json", 100)
    for name in ("gone", "grown", "half", "large", "whole"):
        server.put(bucket, f"p/{name}/result.json", b" " * (101 if name == "large" else 100))
        server.put(bucket, f"p/{name}/requests.parquet")
    source = ObjectStorage.open(f"s3://{bucket}/p")
    batch = list(source.scan({}))
    server.delete(bucket, "p/gone/result.json")
    server.delete(bucket, "p/half/requests.parquet")
    server.put(bucket, "p/grown/result.json", b" " * 101)
    with source.fetched(batch) as copies:
        reasons = [copy.reason if isinstance(copy, Unreachable) else None for copy in copies]
    removed = "was removed meanwhile. Put it back, then ingest again."
    too_large = "cannot be fetched: result.json is larger than 0 MiB. Remove or repair it, then ingest again."
    assert reasons == [
        f"cannot be fetched: result.json {removed}",
        too_large,
        f"cannot be fetched: requests.parquet {removed}",
        too_large,
        None,
    ]


def test_no_key_leaves_the_temporary_folder(
    server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    for key in (
        "p/../../../../escaped/result.json",
        "p/./dot/result.json",
        "p//empty/result.json",
        "p/twice//result.json",
        "p/back\\..\\slash/result.json",
        "p/%2e%2e/%2fetc/result.json",
        "p/..%2f..%2fescaped/result.json",
        f"p/{'long' * 200}/result.json",
        "p/good/result.json",
    ):
        server.put(bucket, key, key.encode())
    source = ObjectStorage.open(f"s3://{bucket}/p")
    before = set(tmp_path.rglob("*"))
    batch = list(source.scan({}))
    with source.fetched(batch) as copies:
        added = set(tmp_path.rglob("*")) - before
        assert {path for path in added if path.is_file() and path.name != ".made-by-joulehouse"} == {
            copy / "result.json" for copy in copies if isinstance(copy, Path)
        }
        assert all(path.is_relative_to(temporary) for path in added)
        outcome = {
            candidate.name.removeprefix(source.address): copy.reason
            if isinstance(copy, Unreachable)
            else (copy / "result.json").read_text()
            for candidate, copy in zip(batch, copies, strict=True)
        }
    refused = "has a key of which a part is empty, and cannot be fetched. Rename it."
    assert outcome == {
        "//empty": refused,
        "/twice/": refused,
        "/%2e%2e/%2fetc": "p/%2e%2e/%2fetc/result.json",
        "/back\\..\\slash": "p/back\\..\\slash/result.json",
        f"/{'long' * 200}": f"p/{'long' * 200}/result.json",
        "/good": "p/good/result.json",
    }


def test_a_name_lies_below_one_prefix_only_and_is_there_until_it_is_removed(server: S3Server, bucket: str) -> None:
    server.put(bucket, "p/a/result.json")
    source = ObjectStorage.open(f"s3://{bucket}/p")
    address = f"s3://{bucket}/p"
    assert [source.holds(name) for name in (address, f"{address}/a", f"{address}2/a", "/p/a")] == [1, 1, 0, 0]
    assert [source.exists(f"{address}/{name}") for name in ("a", "b")] == [True, False]
    server.delete(bucket, "p/a/result.json")
    server.put(bucket, "p/b/result.json")
    assert [source.exists(f"{address}/{name}") for name in ("a", "b")] == [False, True]
    assert names(address) == ["/b"]
    list(source.scan({}))
    assert [source.exists(f"{address}/{name}") for name in ("a", "b")] == [False, True]


def test_an_object_that_may_not_be_read_does_not_stop_the_others(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "theirs"):
        server.put(bucket, f"p/{name}/result.json")
    listing = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "*"}
    reading = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/p/mine/*"}
    for variable, value in server.user("limited", listing, reading).items():
        monkeypatch.setenv(variable, value)
    with server.guarded():
        source = ObjectStorage.open(f"s3://{bucket}/p")
        with source.fetched(list(source.scan({}))) as (mine, theirs):
            assert isinstance(mine, Path)
        assert isinstance(theirs, Unreachable)
    assert "result.json is refused by the storage (access denied)" in theirs.reason


def test_credentials_come_from_a_profile_and_the_endpoint_of_s3_goes_first(
    server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(bucket, "p/a/result.json")
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    keys = {name.lower(): value for name, value in server.user("profiled", everything).items()}
    (tmp_path / "credentials").write_text("[lab]\n" + "".join(f"{name} = {value}\n" for name, value in keys.items()))
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with server.guarded():
        assert names(f"s3://{bucket}/p") == ["/a"]


@pytest.mark.parametrize(
    ("changes", "message", "exit_code"),
    [
        ({}, "access key is not known", 2),
        ({"AWS_ACCESS_KEY_ID": "stranger-and-long-enough"}, "access key is not known", 2),
        ({"AWS_ACCESS_KEY_ID": None}, "secret key does not fit", 2),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "no answer", 1),
        ({"AWS_ENDPOINT_URL": f"http://user:{SECRET}@127.0.0.1:9"}, "AWS_ENDPOINT_URL is no address", 2),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9"}, "AWS_ENDPOINT_URL is no address", 2),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:nine"}, "AWS_ENDPOINT_URL is no address", 2),
    ],
)
def test_an_environment_that_does_not_lead_there_is_one_line_without_secrets(
    changes: dict[str, str | None],
    message: str,
    exit_code: int,
    server: S3Server,
    bucket: str,
    db: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = server.user(f"user-of-{bucket}")
    for variable, value in changes.items():
        monkeypatch.setenv(variable, known[variable] if value is None else value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with server.guarded():
        assert warehouse("ingest", f"s3://{bucket}/p", db=db) == exit_code
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert SECRET not in output.out + output.err
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://no-such-bucket/p", "there is no such bucket"),
        ("s3://{bucket}/no/such/prefix", "there is nothing at"),
        ("s3://", "s3://BUCKET or s3://BUCKET/PREFIX"),
        ("s3:///p", "s3://BUCKET or s3://BUCKET/PREFIX"),
        (f"s3://key:{SECRET}@bucket/p", "s3://BUCKET or s3://BUCKET/PREFIX"),
        ("s3://{bucket}/p/../q", "only dots"),
        ("s3://{bucket}/p//q", "empty part"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_in_one_line(address: str, message: str, bucket: str) -> None:
    with pytest.raises(WarehouseError) as caught:
        scanned(address.format(bucket=bucket))
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_storage_that_stops_answering_ends_the_fetching_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_s3_server() as server:
        point_to(monkeypatch, server.url, tmp_path)
        server.bucket("short-lived")
        for number in range(40):
            server.put("short-lived", f"p/{number}/result.json")
        source = ObjectStorage.open("s3://short-lived/p")
        batch = list(source.scan({}))
    with pytest.raises(WarehouseError, match="no answer"), source.fetched(batch):
        pass


def test_results_in_object_storage_are_ingested_like_those_on_disk(
    server: S3Server, bucket: str, root: Path, tmp_path: Path, db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        save(root, make_result(number, energy_j=6.0), samples=samples_table([(0.0, 1.0)]))
    save_failure(root)
    broken = save(root, make_result(9))
    (broken / "result.json").write_text("{")
    server.upload(root, bucket, "results")
    server.put(bucket, "results//odd/result.json")
    address = f"s3://{bucket}/results"
    assert warehouse("ingest", address, db=db) == 0
    assert "3 new, 0 unchanged, 1 failure, 2 quarantined" in capsys.readouterr().out
    assert warehouse("ingest", address, db=db) == 0
    assert "0 new, 4 unchanged, 0 failures, 2 quarantined" in capsys.readouterr().out
    on_disk = tmp_path / "disk.duckdb"
    assert warehouse("ingest", root, db=on_disk) == 0
    for query in (
        "SELECT * EXCLUDE (directory) FROM experiments ORDER BY experiment_id",
        "SELECT * FROM samples ORDER BY ALL",
        "SELECT * FROM requests ORDER BY ALL",
        "SELECT * EXCLUDE (directory) FROM failures",
    ):
        assert rows(db, query) == rows(on_disk, query)
    assert rows(db, "SELECT DISTINCT directory[:?] FROM experiments".replace("?", str(len(address)))) == [(address,)]
    assert rows(db, "SELECT count(*) FROM quarantine WHERE reason LIKE '%a part is empty%'") == [(1,)]
    # Where the copies lay for a moment is nobody's business.
    assert rows(db, f"SELECT count(*) FROM quarantine WHERE reason LIKE '%{tempfile.gettempdir()}/%'") == [(0,)]
    server.delete(bucket, f"results/{broken.name}/result.json")
    server.delete(bucket, f"results/{broken.name}/requests.parquet")
    server.delete(bucket, "results//odd/result.json")
    assert warehouse("ingest", address, db=db) == 0
    assert rows(db, "SELECT count(*) FROM quarantine") == [(0,)]
