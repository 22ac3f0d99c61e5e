"""The lease folder: the same for all users, whole after kills and full disks, one clear line where it is unusable."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from images.contract.job import ExitCode
from runner.gpu import leases
from runner.gpu.leases import LeaseFolder, LeaseFolderUnusable, lease_folder
from runner.gpu.slots import Slots, active_leases, dead_leases, forget_dead
from tests.runner.gpu.holders import HOLD, ONE, OWNER, TWO, UUIDS, Host, kill, say, taken


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
@pytest.mark.parametrize(("first", "second"), [(None, 65534), (65534, None), (65533, 65534)])
def test_users_share_the_leases_and_take_over_from_each_other(
    host: Host, first: int | None, second: int | None
) -> None:
    dead = host.start(HOLD, 2, *UUIDS[:2], user=first)
    assert say(dead) == "2"
    refused = host.start(HOLD, 1, ONE, user=second)
    assert say(refused) == "None"
    kill(dead)

    code = """
lease = slots.lease(2)
say(sorted(record.pid for record in lease.left_by))
lease.occupy("a", 1, None)
say([record.user for record in active_leases(Path(folder))])
lease.release()
say([len(slots.lease(2).left_by)])
"""
    heir = host.start(code, user=second)
    assert say(heir) == str([dead.pid] * 2)
    assert say(heir) == str([second or 0] * 2)
    assert say(heir) == "[0]", heir.communicate()
    kill(heir)
    # Only the owner and root can remove a file; what stays is empty and in nobody's way.
    with taken(Slots(UUIDS, host.folder, OWNER).lease(8)) as lease:
        lease.occupy("b", 1, None)
    assert host.left() == []


def test_a_record_that_a_kill_cut_short_or_nobody_understands_is_in_nobodys_way(host: Host) -> None:
    slots = Slots(UUIDS, host.folder, OWNER)
    lease = taken(slots.lease(2))
    whole = (host.folder / f"{ONE}.json").read_bytes()
    lease.release()

    (host.folder / f"{ONE}.json").write_bytes(whole + b"the rest of a longer one\n")
    (host.folder / f"{TWO}.json").write_bytes(b'[{"uuid": 3')

    assert [record.uuid for record in dead_leases(host.folder)] == [ONE]
    with taken(slots.lease(2)) as lease:
        assert [record.pid for record in lease.left_by] == [os.getpid()]
        lease.occupy("a", 1, None)
    assert host.left() == []


def test_a_full_disk_is_one_clear_line_and_loses_nothing(host: Host) -> None:
    dead = host.start(HOLD, 1, TWO)
    assert say(dead) == "1"
    kill(dead)
    # Room for a new record, and for the beginning of one that follows the dead runner's.
    room = (host.folder / f"{TWO}.json").stat().st_size + 20
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (int(arguments[0]), -1))
try:
    slots.lease(3)
except LeaseFolderUnusable as error:
    say(error.message)
"""
    assert say(host.start(code, room)).endswith("cannot be used (File too large).")

    assert active_leases(host.folder) == []
    assert [(record.uuid, record.pid) for record in dead_leases(host.folder)] == [(TWO, dead.pid)]
    with taken(Slots(UUIDS, host.folder, OWNER).lease(8)) as lease:
        lease.occupy("a", 1, None)
    assert host.left() == []


def test_a_place_that_cannot_be_used_is_one_clear_line(host: Host) -> None:
    host.folder.write_text("a file")
    for call in (
        lambda: Slots(UUIDS, host.folder, OWNER),
        lambda: active_leases(host.folder),
        lambda: forget_dead(host.folder, lambda record: True),
    ):
        with pytest.raises(LeaseFolderUnusable, match=f"the lease folder {host.folder} cannot be used") as caught:
            call()
        assert caught.value.exit_code == ExitCode.USAGE
        assert "JOULEHOUSE_LEASES" in caught.value.advice
    Slots([], host.folder, OWNER)  # on the CPU nobody asks for it

    if os.getuid() == 0:
        host.folder.unlink()
        host.folder.mkdir(mode=0o755)
        refused = host.start("", user=65534)
        refused.stdin, code = None, refused.wait(timeout=30)
        assert code == 1


def test_a_runner_that_hangs_in_the_folder_is_told_and_not_waited_for_for_ever(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots(UUIDS, host.folder, OWNER)
    lease = taken(slots.lease(1))
    monkeypatch.setattr(leases, "_PATIENCE_S", 0.05)

    with FileLock(host.folder / ".lock"):
        with pytest.raises(LeaseFolderUnusable, match="has been locked by somebody else"):
            slots.lease(1)
        lease.release()

    assert taken(slots.lease(8)).left_by[0].uuid == ONE, "it was released, though its record could not be removed"


def test_nothing_is_made_by_looking(host: Host) -> None:
    assert active_leases(host.folder) == dead_leases(host.folder) == []
    forget_dead(host.folder, lambda record: True)
    assert not host.folder.exists()


def test_all_users_find_the_same_folder_and_can_use_it_whatever_their_umask(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert lease_folder({"JOULEHOUSE_LEASES": str(host.folder)}) == host.folder
    assert lease_folder({"TMPDIR": "/elsewhere", "XDG_RUNTIME_DIR": "/run/user/1"}) == lease_folder({})
    lock_folder = tmp_path / "lock"
    lock_folder.mkdir()
    monkeypatch.setattr(leases, "_RUN_LOCK", lock_folder)
    assert lease_folder({}) == Path("/tmp/joulehouse-leases"), "root could use the other one, and nobody else"
    (lock_folder / "joulehouse").mkdir()
    (lock_folder / "joulehouse").chmod(0o1777)
    assert lease_folder({}) == lock_folder / "joulehouse"

    assert say(host.start(HOLD, 1, ONE)) == "1"
    assert stat.S_IMODE(host.folder.stat().st_mode) == 0o1777
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in host.folder.iterdir()}
    assert modes == dict.fromkeys((".lock", f"{ONE}.lock", f"{ONE}.json"), 0o666)
    assert list(host.folder.parent.iterdir()) == [host.folder]


def test_runners_that_make_the_folder_at_the_same_time_get_the_same_one(host: Host) -> None:
    gate = threading.Barrier(8)
    inodes: list[int] = []

    def make() -> None:
        gate.wait()
        LeaseFolder(host.folder).make()
        inodes.append((host.folder / ".lock").stat().st_ino)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inodes) == 8
    assert len(set(inodes)) == 1
    assert list(host.folder.parent.iterdir()) == [host.folder]
