"""Whatever happens to a job, its cycle has one result in the place it publishes to: in a folder, in a bucket."""

from __future__ import annotations

import errno
import random
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from images.contract.publication import LastWord, Manifest, claim_key, said_key
from images.harness.publishing.bucket import Bucket
from images.harness.publishing.folder import Folder
from images.harness.publishing.place import Place, PlaceAway, PlaceUnusable
from images.harness.publishing.publisher import Earlier, Publisher, publish_failure, publish_raw
from tests.flaky_proxy import flaky
from tests.images.harness.publishing.publishing_process import HASH, finished
from tests.s3_server import S3Server, point_to, running_s3_server
from tests.warehouse.results import rows, warehouse

ROOT = Path(__file__).resolve().parents[4]
SEED = 20261122


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running_s3_server() as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of a new one that the environment points to."""
    point_to(monkeypatch, server.url, tmp_path)
    return f"s3://{server.bucket(f'bucket-{secrets.token_hex(4)}')}/results/study"


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Folder(tmp_path / "place")
    return Bucket(request.getfixturevalue("bucket"), timedelta(seconds=5))


@pytest.fixture
def found(place: Place, tmp_path: Path, server: S3Server) -> Callable[[], list[str]]:
    """Everything in the place, without the marks of tries."""

    def look() -> list[str]:
        if isinstance(place, Folder):
            root = tmp_path / "place"
            keys = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
        else:
            assert isinstance(place, Bucket)
            name, _, prefix = place.address.removeprefix("s3://").partition("/")
            listed = server.client.list_objects_v2(Bucket=name).get("Contents", [])
            keys = [one["Key"].removeprefix(f"{prefix}/") for one in listed]
        return sorted(key for key in keys if not key.startswith(".begun/"))

    return look


def published(manifest: Manifest) -> list[str]:
    return sorted([claim_key(HASH, 1), *(f"{manifest.directory}/{file.name}" for file in manifest.files)])


def test_a_result_is_published_once_whoever_tries_again(
    place: Place, found: Callable[[], list[str]], tmp_path: Path
) -> None:
    first, second = Publisher(place, HASH, 1, "job", "pod-a"), Publisher(place, HASH, 1, "job", "pod-b")
    assert first.published() is None
    assert (first.begin(), first.begin(), second.begin()) == (Earlier(0, 0, []), Earlier(0, 0, []), Earlier(1, 1, []))
    word = LastWord(directory="a-44136fa3-c001-failed_2026-11-21T08-04-01Z", exit_code=11)
    first.say(word)
    assert Publisher(place, HASH, 1, "job", "pod-c").begin() == Earlier(2, 1, [word]), "the second has said nothing"
    assert LastWord.parse(place.read(said_key(HASH, 1, "job", "pod-a"))) == word
    assert place.read(said_key(HASH, 1, "job", "pod-b")) is None
    assert Publisher(place, HASH, 1, "another", "pod-d").begin() == Earlier(0, 0, []), "a new launch, new tries"

    counted = first.publish_result(*finished(tmp_path, 1, 1))

    assert found() == published(counted)
    assert second.published() == counted
    assert second.publish_result(*finished(tmp_path, 1, 2)) == counted, "the later one is dropped"
    assert found() == published(counted)


def test_of_several_that_end_together_one_counts(place: Place, found: Callable[[], list[str]], tmp_path: Path) -> None:
    counted: list[Manifest] = []
    directories = [finished(tmp_path / str(number), 1, number) for number in range(6)]

    def publish(directory: Path, experiment_id: str) -> None:
        counted.append(Publisher(place, HASH, 1).publish_result(directory, experiment_id))

    threads = [threading.Thread(target=publish, args=one) for one in directories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(counted) == 6
    assert {one.experiment_id for one in counted} == {counted[0].experiment_id}
    assert found() == published(counted[0])


@pytest.mark.parametrize("killed_at", ["create", "finish"])
def test_what_was_killed_on_its_way_is_brought_to_its_end_or_made_anew(
    place: Place,
    found: Callable[[], list[str]],
    tmp_path: Path,
    killed_at: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    ended = finished(tmp_path, 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(type(place), killed_at, killed)
        with pytest.raises(KeyboardInterrupt):
            Publisher(place, HASH, 1).publish_result(*ended)

    again = Publisher(place, HASH, 1)
    counted = again.published()
    if killed_at == "finish":
        assert counted is not None, "its claim counts, so what it brought is published"
        assert found() == published(counted)
    else:
        assert counted is None
        counted = again.publish_result(*finished(tmp_path, 1, 2))
        assert counted.experiment_id.endswith("2")
        assert set(published(counted)) <= set(found())


def test_every_failure_is_kept_and_a_try_that_was_ended_from_outside_is_taken_back(
    place: Place, found: Callable[[], list[str]], tmp_path: Path
) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number) / f"a-44136fa3-c001-failed_2026-11-21T08-04-0{number}Z"
        folder.mkdir(parents=True)
        (folder / "failure.json").write_text("{}")
        publish_failure(place, folder, f"exp_{number}")
    assert [name.partition("_")[2] for name in found()] == [
        "2026-11-21T08-04-01Z/failure.json",
        "2026-11-21T08-04-02Z/failure.json",
    ]
    tried = Publisher(place, HASH, 1, "job", "pod-a")
    tried.begin()
    tried.take_back()
    assert Publisher(place, HASH, 1, "job", "pod-b").begin() == Earlier(0, 0, [])


def test_what_single_processes_left_lies_beside_the_results_and_is_none(
    place: Place, found: Callable[[], list[str]], tmp_path: Path
) -> None:
    left = tmp_path / ".raw-exp_1"
    left.mkdir()
    for name in (".completed_1", "config.json", "process_1.json", "requests_1.parquet", ".process_0.json.tmp-0a1b2c3d"):
        (left / name).write_text("" if name == ".completed_1" else name)
    counted = Publisher(place, HASH, 1).publish_result(*finished(tmp_path, 1, 1))

    raw = publish_raw(place, left, "exp_1")

    assert raw.files[-1].name == ".completed_1", "a process counts once all of it is there"
    whole = ["raw/exp_1/.completed_1", "raw/exp_1/config.json", "raw/exp_1/process_1.json"]
    assert found() == sorted([*published(counted), *whole, "raw/exp_1/requests_1.parquet"])
    assert place.read("raw/exp_1/.completed_1") == b""
    assert place.read("raw/exp_1/process_1.json") == b"process_1.json"
    address = place.address if isinstance(place, Bucket) else tmp_path / "place"
    assert warehouse("ingest", address, db=tmp_path / "w.duckdb") == 0
    assert rows(tmp_path / "w.duckdb", "SELECT count(*) FROM experiments") == [(1,)]
    assert rows(tmp_path / "w.duckdb", "SELECT count(*) FROM quarantine") == [(0,)]


def test_a_claim_that_names_nothing_is_told_before_anything_is_measured(place: Place, tmp_path: Path) -> None:
    directory, experiment_id = finished(tmp_path, 1, 1)
    manifest = Manifest.of(directory, experiment_id)
    for content in (manifest.model_dump_json().encode(), b"half a manif"):
        place.remove(claim_key(HASH, 1))
        place.create(claim_key(HASH, 1), content)
        with pytest.raises(PlaceUnusable, match=r"names a result that is not there\. Look what became of it"):
            Publisher(place, HASH, 1).published()


def test_a_claim_whose_answer_was_lost_is_still_ones_own(
    place: Place, tmp_path: Path, found: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = type(place).create

    def answers_wrongly(self: Place, key: str, data: bytes) -> bool:
        create(self, key, data)
        return key != claim_key(HASH, 1)

    monkeypatch.setattr(type(place), "create", answers_wrongly)
    counted = Publisher(place, HASH, 1).publish_result(*finished(tmp_path, 1, 1))
    assert found() == published(counted), "it was not dropped for its own sake"


def test_a_full_disk_may_have_room_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    ended = finished(tmp_path, 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(PlaceAway, match=r"cannot take what was measured \(No space left on device\)"):
            Publisher(Folder(tmp_path / "place"), HASH, 1).publish_result(*ended)
    assert Publisher(Folder(tmp_path / "place"), HASH, 1).publish_result(*ended).directory == ended[0].name


def test_nothing_is_ever_overwritten(place: Place, found: Callable[[], list[str]], tmp_path: Path) -> None:
    assert place.create("a/b.json", b"one")
    assert not place.create("a/b.json", b"two")
    assert place.read("a/b.json") == b"one"
    directory, experiment_id = finished(tmp_path / "one", 1, 1)
    Publisher(place, HASH, 1).publish_result(directory, experiment_id)
    other = tmp_path / "other" / directory.name
    shutil.copytree(directory, other)
    (other / "result.json").write_text("{}")
    (other / "requests.parquet").write_text("other")
    before = found()
    with pytest.raises(PlaceUnusable):
        Publisher(place, "f" * 16, 1).publish_result(other, "exp_other")
    assert [name for name in found() if not name.startswith(".")] == [name for name in before if name[0] != "."]
    for name in ("result.json", "requests.parquet"):
        assert place.read(f"{directory.name}/{name}") == (directory / name).read_bytes()


def test_file_systems_without_links_do_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    place = Folder(tmp_path / "place")
    assert place.create("a", b"one")
    assert not place.create("a", b"two")
    assert place.read("a") == b"one"


def test_what_is_wrong_with_a_bucket_is_known_before_anything_is_measured(
    server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(address: str) -> None:
        Publisher(Bucket(address, timedelta(seconds=1)), HASH, 1).begin()

    with pytest.raises(PlaceUnusable, match=r"there is no bucket for s3://nobody/x\. Make it"):
        begin("s3://nobody/x")
    with pytest.raises(PlaceUnusable, match="cannot be published to"):
        begin("gs://bucket/x")
    reader = server.user("reader", {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetObject"], "Resource": "*"})
    with server.guarded():
        with pytest.raises(
            PlaceUnusable, match=r"access to s3://bucket-\S+ is denied \(\w+\)\. Correct AWS_ACCESS_KEY_ID"
        ):
            begin(bucket)
        for name, value in reader.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(PlaceUnusable, match="must allow to list, read, write and delete"):
            begin(bucket)
    point_to(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(PlaceAway, match=r"does not answer\. Check the network"):
        begin(bucket)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(PlaceAway, match=r"there are no credentials for s3://bucket-\S+, and this machine has no role"):
        begin(bucket)


def test_what_is_wrong_with_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PlaceUnusable, match=r"cannot be written by uid \d+, gid \d+ \(Not a directory\)"):
        Publisher(Folder(tmp_path / "file"), HASH, 1).begin()


@pytest.mark.timeout(240)
def test_two_hundred_results_of_eight_processes_over_a_network_that_fails_are_ingested_once_each(
    server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cycle is tried by two processes, connections fail in three ways, and processes are killed at random."""
    chance = random.Random(SEED)
    port = int(server.url.rpartition(":")[2])
    with flaky(port, share=0.1, seed=SEED) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
        cycles = [[str(cycle) for cycle in range(1, 201) if cycle % 4 == process % 4] for process in range(8)]
        waiting = [(process, own) for process, own in enumerate(cycles)]
        running: dict[subprocess.Popen[bytes], tuple[int, list[str]]] = {}
        kills = 0
        while waiting or running:
            while waiting:
                process, own = waiting.pop()
                running[publishing(bucket, process, own)] = (process, own)
            time.sleep(0.2)
            for one in [one for one in running if one.poll() is not None]:
                again = running.pop(one)
                if one.returncode != 0:
                    waiting.append(again)
            if kills < 12 and running and chance.random() < 0.3:
                chance.choice(list(running)).kill()
                kills += 1
        assert kills == 12
        assert min(network.faults.values()) > 5, network.faults
    point_to(monkeypatch, server.url, tmp_path)

    assert warehouse("ingest", bucket, db=tmp_path / "w.duckdb") == 0

    counted = rows(tmp_path / "w.duckdb", "SELECT cycle, count(*) FROM experiments GROUP BY ALL ORDER BY ALL")
    assert counted == [(cycle, 1) for cycle in range(1, 201)]
    assert rows(tmp_path / "w.duckdb", "SELECT count(*) FROM quarantine") == [(0,)]
    assert rows(tmp_path / "w.duckdb", "SELECT count(*) FROM requests") == [(600,)]


def publishing(place: str, process: int, cycles: list[str]) -> subprocess.Popen[bytes]:
    module = "tests.images.harness.publishing.publishing_process"
    command = [sys.executable, "-m", module, place, str(process), *cycles]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
