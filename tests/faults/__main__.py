"""`make test-faults`: kill -9 at random moments of a study on eight simulated GPUs.

At 25 random moments of a 60-job study the runner is killed, and in half of the cases a random container before it.
Afterwards there must be exactly 60 results, none twice, none lost, and no container, process, lease or attempt folder.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from images.contract.files import parse_directory_name
from runner.launchers.docker import LABEL_STUDY
from runner.layout import Layout
from tests.docker_engine import ROOT, build_image, engine_problem
from tests.faults.aftermath import Aftermath, problems_of
from tests.gpu_node.fixtures import hook_problem
from tests.gpu_node.node import HOST_FOLDER, Node

RUNNER = [sys.executable, "-c", "from runner.cli import main; main()"]
EXPERIMENTS, CYCLES = 6, 10
N_JOBS = EXPERIMENTS * CYCLES
_MOMENTS_S = (0.3, 8.0)
"""After the runner's start: from its imports over its recovery to its first results."""
_AFTER_IT_WORKS_S = (0.0, 6.0)
STUDY = """
name: {name}
cycles: {cycles}
launcher: {{name: {launcher}}}
retries: {{backoff_s: 0.5}}
defaults:
  backend: stub
  workload: {{n_prompts: 4, max_output_tokens: 4}}
  measurement: {{baseline: {{enabled: false}}, warmup: {{enabled: false}}}}
  stub: {{window_s: 1.0}}
sweep:
  grid: {{batch_size: [1, 2, 3, 4, 5, 6]}}
"""


def main() -> int:
    options = _options()
    random_ = random.Random(options.seed)
    print(
        f"seed {options.seed}: {options.kills} kills of a {EXPERIMENTS * CYCLES}-job study, launcher {options.launcher}"
    )
    if options.launcher == "docker" and (problem := engine_problem() or hook_problem()):
        print(f"needs the engine that .ci/engine starts: {problem}", file=sys.stderr)
        return 1
    if options.launcher == "docker":
        build_image("stub")
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, Node.install():
        scene = Scene(Path(folder), options.launcher, options.seed)
        with_job = [number < options.kills // 2 for number in range(options.kills)]
        random_.shuffle(with_job)
        most = [int((number + 1) * 0.9 * N_JOBS / options.kills) for number in range(options.kills)]
        killed = [scene.interrupt(random_, *when) for when in zip(with_job, most, strict=True)]
        code = scene.finish(random_, options.engine_restarts)
        aftermath = problems_of(scene.output, scene.name, EXPERIMENTS, CYCLES, Path(folder) / "leases")
    _report(killed, aftermath, code, time.monotonic() - began_s)
    as_meant = all(alive for alive, _, _ in killed) and sum(job for _, job, _ in killed) == options.kills // 2
    return 0 if as_meant and code == 0 and not aftermath.problems else 1


class Scene:
    """A study and its runner, which is started and killed."""

    def __init__(self, folder: Path, launcher: str, seed: int) -> None:
        self.name = f"faults-{seed}"
        self.output = folder / "out"
        self._launcher = launcher
        self._log = (folder / "runner.log").open("ab")
        self._study = folder / "study.yaml"
        self._study.write_text(STUDY.format(name=self.name, cycles=CYCLES, launcher=launcher))
        self._environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(HOST_FOLDER / "lib"),
            "JOULEHOUSE_LEASES": str(folder / "leases"),
        }

    def interrupt(self, random_: random.Random, also_a_job: bool, most_results: int) -> tuple[bool, bool, int]:
        """Kill the runner after a random time, and if told so a random job shortly before it.

        Args:
            most_results: not later than there are so many, so that the study lasts for all kills.

        Returns:
            Whether the runner was still alive, whether a job was killed, and how many results there were.
        """
        runner = self._start()
        at_latest_s = time.monotonic() + random_.uniform(*_MOMENTS_S)
        while time.monotonic() < at_latest_s and self._n_results() < most_results:
            time.sleep(0.02)
        job_killed = also_a_job and self._kill_a_job(random_, runner)
        if job_killed:
            time.sleep(random_.uniform(0.0, 0.5))
        alive = runner.poll() is None
        runner.kill()
        runner.wait()
        return alive, job_killed, self._n_results()

    def finish(self, random_: random.Random, engine_restarts: int) -> int:
        """Let the study come to its end, over restarts of the engine if told so; the runner's exit code.

        A runner that finds no engine at its start says so and ends, which is right. So the restarts are not before
        it has found one.
        """
        runner = self._start()
        while engine_restarts and runner.poll() is None and not self._works(runner):
            time.sleep(0.02)
        for _ in range(engine_restarts):
            time.sleep(random_.uniform(*_AFTER_IT_WORKS_S))
            if runner.poll() is None:
                restart_engine()
        try:
            return runner.wait(timeout=300)
        except subprocess.TimeoutExpired:
            runner.kill()
            runner.wait()
            return 124
        finally:
            self._log.close()
            print("\n".join(Path(self._log.name).read_text(errors="replace").splitlines()[-3:]))

    def _start(self) -> subprocess.Popen[bytes]:
        command = [*RUNNER, "run", str(self._study), "--output", str(self.output)]
        return subprocess.Popen(
            command, env=self._environment, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL
        )

    def _works(self, runner: subprocess.Popen[bytes]) -> bool:
        """Whether it has come to what earlier runners left: its engine had answered."""
        info = Layout(self.output).runner(self.name)
        return info is not None and info.pid == runner.pid

    def _kill_a_job(self, random_: random.Random, runner: subprocess.Popen[bytes]) -> bool:
        """Waits for one as long as the runner lives."""
        while runner.poll() is None:
            jobs = self._jobs()
            if jobs and self._killed(random_.choice(jobs)):
                return True
            time.sleep(0.1)
        return False

    def _jobs(self) -> list[str]:
        """Process ids, or container names."""
        if self._launcher == "local":
            return sorted(_output("pgrep", "-f", f"images.stub .*{self.output}/.attempts").split())
        label = f"label={LABEL_STUDY}={self.name}"
        return sorted(_output("docker", "ps", "--filter", label, "--format", "{{.Names}}").split())

    def _killed(self, job: str) -> bool:
        return (
            subprocess.run(
                ["kill", "-KILL", job] if self._launcher == "local" else ["docker", "kill", job], capture_output=True
            ).returncode
            == 0
        )

    def _n_results(self) -> int:
        names = (parse_directory_name(path.name) for path in self.output.glob("*")) if self.output.exists() else ()
        return sum(name is not None and not name.failed for name in names)


def restart_engine() -> None:
    """As an upgrade does: the engine ends its containers and itself, and comes back."""
    pid = int(Path("/var/run/docker.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    while _lives(pid):
        time.sleep(0.1)
    subprocess.run([str(ROOT / ".ci" / "engine")], check=True, capture_output=True)


def _lives(pid: int) -> bool:
    """A zombie does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _output(*command: str) -> str:
    """Empty where the command fails: what it was about may have ended meanwhile."""
    return subprocess.run(command, capture_output=True, text=True).stdout


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--engine-restarts", type=int, default=0, help="of the engine that .ci/engine has started")
    parser.add_argument("--launcher", choices=["docker", "local"], default="docker")
    return parser.parse_args()


def _report(killed: list[tuple[bool, bool, int]], aftermath: Aftermath, code: int, seconds: float) -> None:
    table = Table("what", "found", title="fault test")
    table.add_row("runners killed while they lived", str(sum(alive for alive, _, _ in killed)))
    table.add_row("jobs killed beside", str(sum(job for _, job, _ in killed)))
    table.add_row("results after each kill", " ".join(str(results) for _, _, results in killed))
    table.add_row("results at the end", f"{aftermath.n_results} of {EXPERIMENTS * CYCLES}")
    table.add_row("exit code of the last run", str(code))
    table.add_row("problems", "\n".join(aftermath.problems) or "none")
    table.add_row("time", f"{seconds:.0f} s")
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
