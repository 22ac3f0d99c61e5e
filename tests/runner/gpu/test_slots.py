"""GPUs are leased by real processes and threads: never twice, free when the holder dies, nothing forgotten or left."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.gpu.leases import LeaseRecord, process_started
from runner.gpu.slots import Slots, active_leases, dead_leases, forget_dead
from tests.runner.gpu.holders import HOLD, ONE, OWNER, THREE, TWO, UUIDS, Host, kill, say, taken


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


@pytest.mark.parametrize(("wanted", "rounds"), [([1, 2, 3], 600), ([5], 250)], ids=["few", "more than half"])
def test_processes_and_threads_never_hold_a_gpu_at_the_same_time_nor_wait_for_each_other(
    host: Host, tmp_path: Path, wanted: list[int], rounds: int
) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
marks, rounds, wanted, seed = Path(arguments[0]), int(arguments[1]), eval(arguments[2]), int(arguments[3])
with ThreadPoolExecutor(2) as threads:
    races = [threads.submit(race, slots, marks, rounds, wanted, seed + one) for one in range(2)]
    say(sum(one.result() for one in races))
"""
    racers = [host.start(code, tmp_path, rounds, wanted, seed) for seed in (10, 20)]
    missed = [racer.communicate(timeout=100)[0].strip() for racer in racers]

    assert [racer.returncode for racer in racers] == [0, 0], "a GPU had two holders"
    assert all(int(count) > 0 for count in missed), "they never got in each other's way"
    assert host.left() == []


def test_a_killed_runners_gpus_are_free_at_once_though_its_job_lives_on(host: Host) -> None:
    code = """
lease = slots.lease(8)
job = subprocess.Popen(["sleep", "60"], close_fds=False)
say(job.pid)
time.sleep(60)
"""
    holder = host.start(code)
    job = int(say(holder))
    try:
        slots = Slots(UUIDS, host.folder, OWNER)
        assert slots.lease(1) is None
        kill(holder)
        lease = taken(slots.lease(8))
        assert process_started(job) is not None
        lease.release()
    finally:
        os.kill(job, 9)


def test_what_a_dead_runner_did_is_known_until_somebody_else_works_there(host: Host) -> None:
    first, second = (host.start(HOLD, 2, *pair) for pair in (UUIDS[:2], UUIDS[2:4]))
    assert [say(first), say(second)] == ["2", "2"]
    started = process_started(first.pid)
    kill(first)

    # Another one takes the GPUs, and dies before it has looked after the job that was left.
    heir = host.start("lease = slots.lease(2); say(len(lease.left_by)); time.sleep(60)")
    assert say(heir) == "2"
    kill(heir)
    assert sorted((record.uuid, record.pid) for record in dead_leases(host.folder)) == [
        (uuid, pid) for uuid in (ONE, TWO) for pid in sorted((first.pid, heir.pid))
    ]

    slots = Slots(UUIDS, host.folder, OWNER)
    with taken(slots.lease(2)) as lease:
        record = lease.left_by[0]
        assert lease.uuids == (ONE, TWO)
        assert record == LeaseRecord(
            uuid=ONE,
            pid=first.pid,
            started=started,
            user=os.getuid(),
            output=Path("/out"),
            study="study",
            launcher="local",
            experiment="experiment",
            cycle=3,
            attempt=Path("/out/.attempts/one"),
            since=record.since,
        )
    assert len(dead_leases(host.folder)) == 4, "a lease in which nothing ran has not ended anything"

    with taken(slots.lease(2)) as lease:
        lease.occupy("other", 1, None)
        assert dead_leases(host.folder) == lease.left_by == []
        assert [(seen.uuid, seen.pid, seen.experiment) for seen in active_leases(host.folder)] == [
            (ONE, os.getpid(), "other"),
            (TWO, os.getpid(), "other"),
            (THREE, second.pid, "experiment"),
            (UUIDS[3], second.pid, "experiment"),
        ]
    assert {Path(name).stem for name in host.left()} == set(UUIDS[2:4])


def test_a_job_that_cannot_be_ended_is_known_to_the_next_one_on_its_gpus(host: Host) -> None:
    slots = Slots(UUIDS, host.folder, OWNER)
    with taken(slots.lease(2)) as lease:
        lease.occupy("stuck", 1, Path("/out/.attempts/stuck"))
        lease.leave()

    with taken(slots.lease(2)) as lease:
        assert [(record.uuid, record.experiment) for record in lease.left_by] == [(ONE, "stuck"), (TWO, "stuck")]
        lease.leave()  # nothing of its own came to run there
    assert [record.experiment for record in dead_leases(host.folder)] == ["stuck", "stuck"]


def test_dead_runners_are_forgotten_when_their_jobs_have_ended_and_others_are_left_alone(host: Host) -> None:
    dead, other, alive = (host.start(HOLD, 1, uuid) for uuid in (ONE, TWO, THREE))
    assert [say(process) for process in (dead, other, alive)] == ["1", "1", "1"]
    kill(dead)
    kill(other)

    forget_dead(host.folder, lambda record: record.pid != other.pid)

    assert [record.pid for record in dead_leases(host.folder)] == [other.pid]
    assert [record.pid for record in active_leases(host.folder)] == [alive.pid]
    assert Slots(UUIDS, host.folder, OWNER).lease(1, only=[THREE]) is None
    forget_dead(host.folder, lambda record: True)
    assert {Path(name).stem for name in host.left()} == {THREE}


def test_a_lease_that_is_not_whole_takes_nothing(host: Host) -> None:
    holder = host.start(HOLD, 6)
    assert say(holder) == "6"
    slots = Slots(UUIDS, host.folder, OWNER)

    assert slots.lease(3) is None

    assert {Path(name).stem for name in host.left()} == set(UUIDS[:6])
    assert len(active_leases(host.folder)) == 6
    other = host.start(HOLD, 2)
    assert say(other) == "2"


def test_an_exclusive_run_has_the_host_for_itself_or_nothing(host: Host) -> None:
    ours = UUIDS[2:4]
    exclusive = Slots(ours, host.folder, OWNER, exclusive=UUIDS)
    others = Slots(UUIDS, host.folder, OWNER)

    with taken(others.lease(1, only=[UUIDS[7]])):
        assert exclusive.lease(1) is None
    with taken(exclusive.lease(1)) as lease:
        assert lease.uuids == (THREE,)
        assert others.lease(1) is None
        assert exclusive.lease(1) is None
        assert [record.uuid for record in active_leases(host.folder) if record.used] == [THREE]
    with taken(exclusive.lease(0)):
        assert others.lease(1) is None, "a job on the CPU is alone, too"
    assert host.left() == []
    assert taken(others.lease(8)).uuids == tuple(UUIDS)


def test_gpus_are_tried_in_the_runs_order_without_those_to_avoid(host: Host) -> None:
    mixed = [UUIDS[5], UUIDS[1], UUIDS[7], UUIDS[0]]
    slots = Slots(mixed, host.folder, OWNER)

    with taken(slots.lease(2)) as lease:
        assert lease.uuids == (UUIDS[5], UUIDS[1])
        with taken(slots.lease(1)) as third:
            assert third.uuids == (UUIDS[7],)
    with taken(slots.lease(4)) as lease:
        assert lease.uuids == tuple(mixed)
    with taken(slots.lease(2, avoid=[UUIDS[5], UUIDS[1]])) as lease:
        assert lease.uuids == (UUIDS[7], UUIDS[0])
    assert slots.lease(4, avoid=[UUIDS[1]]) is None


def test_only_means_exactly_these_in_this_order(host: Host) -> None:
    slots = Slots(UUIDS[:3], host.folder, OWNER)

    with taken(slots.lease(2, only=[THREE, ONE])) as lease:
        assert lease.uuids == (THREE, ONE)
        assert slots.lease(2, only=[TWO, ONE]) is None, "TWO alone is not enough"
        with taken(slots.lease(1, only=[TWO])):
            pass
    assert slots.lease(1, only=[UUIDS[7]]) is None, "not this run's"
    with pytest.raises(ValueError, match="3 GPUs, but 1 are named"):
        slots.lease(3, only=[ONE])


def test_a_gpu_set_aside_is_not_leased_again_in_this_run(host: Host) -> None:
    slots = Slots(UUIDS[:3], host.folder, OWNER)
    with taken(slots.lease(1)) as lease:
        slots.set_aside(lease.uuids[0], "fell off the bus")

    assert slots.usable == [TWO, THREE]
    assert slots.aside == {ONE: "fell off the bus"}
    assert taken(slots.lease(2)).uuids == (TWO, THREE)
    assert slots.lease(1, only=[ONE]) is None
    assert taken(Slots(UUIDS, host.folder, OWNER).lease(1)).uuids == (ONE,), "another run may try"


def test_who_looks_is_never_taken_for_a_runner(host: Host) -> None:
    host.start("say('looking')\nwhile True: active_leases(Path(folder))")
    slots = Slots(UUIDS, host.folder, OWNER)
    with taken(slots.lease(8)):
        for _ in range(3):
            assert len(active_leases(host.folder)) == 8

    for _ in range(300):
        taken(slots.lease(8)).release()


def test_a_lease_may_end_in_another_thread_and_twice(host: Host) -> None:
    slots = Slots(UUIDS, host.folder, OWNER)
    lease = taken(slots.lease(8))
    thread = threading.Thread(target=lease.release)
    thread.start()
    thread.join()
    with taken(slots.lease(8)):
        lease.release()
        assert slots.lease(1) is None, "the second release is not of the new lease"
    assert host.left() == []
