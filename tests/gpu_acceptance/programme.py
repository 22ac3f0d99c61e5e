"""All that is measured on one GPU, in order: idle, sensors under load, a model's work. Read top-down."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from images.contract.config import BackendName, ExperimentConfig
from images.contract.job import GpuUnusable, JobContext, JobError
from images.contract.parts import DeviceEnergy
from images.harness.baseline import BaselineFailed, measure_baseline
from images.harness.counter import measure_lag
from images.harness.findings import MIN_DISAGREEMENT
from images.harness.gpus import find_gpus
from images.harness.nvml import Device, driver_versions
from images.harness.sampler import SystemClock
from tests.gpu_acceptance import inference, sensors
from tests.gpu_acceptance.loads import Load, NeedsCuda
from tests.gpu_acceptance.machines import Machine
from tests.gpu_acceptance.rows import Rows, spread, tell
from tests.gpu_acceptance.stamps import StampsUnmatched, compare_stamps

# What the harness takes for granted; docs/gpu-acceptance.md says where each comes from.
LONGEST_PERIOD_S = 0.2
LARGEST_IRREGULARITY = 0.05
LARGEST_SAMPLER_SHARE = 0.02
LARGEST_SLOWDOWN = 0.03
LARGEST_MEAN_STAMP_MS, LARGEST_STAMP_MS, EARLIEST_STAMP_MS = 1.0, 5.0, -0.1
_SAMPLED_GPUS = 8
_READ_COUNT = 500
_POWER_ROW = "power in steady load"
_LOAD_ROWS = (
    "counter update period",
    "counter steps, irregularity",
    "power update period",
    _POWER_ROW,
    "counter lag",
    "one read, one sample, busy GPU",
)
_MODEL_ROWS = ("idle power, model loaded", "tokens/s with / without sampling", "energy by both methods", "token stamps")


@dataclass(frozen=True)
class Plan:
    """How long and how often.

    Attributes:
        watch_s: length of each look at the sensors (s); idle powers are measured as long.
        run_s: length of the run whose energy is taken by both methods (s).
        pair_s: length of each window with and without sampling (s).
    """

    backend: BackendName
    model: str
    batch_size: int
    watch_s: float
    run_s: float
    pairs: int
    pair_s: float

    @property
    def settle_s(self) -> float:
        """Time for the power to become steady (s)."""
        return min(3.0, self.watch_s)


def examine(machine: Machine, uuid: str | None, plan: Plan) -> Rows:
    """The table of one GPU.

    Args:
        uuid: None takes the first one that is visible.

    Raises:
        GpuUnusable: there is no GPU, or none that can be metered.
    """
    tell("looking for the GPU")
    wanted = ExperimentConfig.model_validate({"backend": "stub", "measurement": {"energy": "nvml"}})
    found = find_gpus(wanted, JobContext(gpu_uuids=None if uuid is None else [uuid]), SystemClock())
    device = found.devices[0]
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows = Rows(f"{device.properties.name} ({device.uuid}), {when}")
    _describe(rows, device, found.foreign)
    _idle(rows, device, plan)
    try:
        with machine.load(device.uuid) as load:
            _under_load(rows, device, load, plan)
    except NeedsCuda as error:
        done = {row.name for row in rows.rows}
        rows.miss([name for name in _LOAD_ROWS if name not in done], f"needs CUDA: {error}")
    _sampler_cost(rows, device, plan)
    try:
        with inference.loaded_work(
            machine,
            inference.experiment(plan.backend, plan.model, plan.batch_size, simulated=machine.simulated),
            device.uuid,
        ) as work:
            _with_model(rows, machine, device, work, plan)
    except (NeedsCuda, JobError) as error:  # what was measured before is shown all the same
        done = {row.name for row in rows.rows}
        reason = f"needs CUDA: {error}" if isinstance(error, NeedsCuda | GpuUnusable) else str(error)
        rows.miss([name for name in _MODEL_ROWS if name not in done], reason)
    return rows


def _describe(rows: Rows, device: Device, foreign: list[str]) -> None:
    driver, cuda = driver_versions()
    properties = device.properties
    modes = {"persistence": properties.persistence_mode, "ECC": properties.ecc_enabled}
    rows.inform("driver, CUDA it brings", f"{driver}, {cuda}")
    rows.inform(
        "power limit, modes", f"{properties.power_limit_w} W, " + ", ".join(f"{k} {v}" for k, v in modes.items())
    )
    rows.inform("power method, scope", f"{device.power_method}, {device.power_scope}")
    rows.inform("energy counter", "yes" if device.has_counter else "none: energy is the power integral")
    rows.judge("others on the GPU", "; ".join(foreign) or "nobody", "nobody", met=not foreign)


def _idle(rows: Rows, device: Device, plan: Plan) -> None:
    tell("idle power")
    rows.inform("idle power, no context of ours", str(sensors.compare_powers(device, plan.watch_s)))
    tell("idle power with a context")
    name = "idle power, context held (child process)"
    try:
        baseline = measure_baseline([device.uuid], plan.watch_s)
    except BaselineFailed as error:
        rows.judge(name, str(error), "measured", met=False)
        return
    seen = f"{baseline.power_w:.1f} W, samples spread by {baseline.spread_w:.2f} W (standard deviation)"
    rows.judge(name, seen, "a context is held", met=baseline.held_context)


def _under_load(rows: Rows, device: Device, load: Load, plan: Plan) -> None:
    tell("update periods under load")
    load.on()
    SystemClock().sleep(plan.settle_s)
    readings = sensors.watch(device, plan.watch_s)
    counter, power = sensors.counter_periods(readings), sensors.power_periods(readings)
    _periods(rows, device, counter, power)
    tell("instant, average and counter under load")
    powers = sensors.compare_powers(device, plan.watch_s)
    _powers(rows, powers)
    readings_us, samples_us = sensors.read_costs_us(device, _READ_COUNT)
    rows.inform("one read, one sample, busy GPU", f"{_cost(readings_us)}; {_cost(samples_us)}")
    load.off()
    tell("counter lag")
    if not counter.gaps_s:
        rows.inform("counter lag", "no counter")
        return
    readings = sensors.edges(device, load, plan.settle_s / 2)
    fitted_s, allowed = sensors.fitted_lag_s(readings, counter.median_s), measure_lag(readings, counter.median_s)
    fitted = "not to be told" if fitted_s is None else f"{fitted_s * 1e3:.0f} ms behind the power reading (best fit)"
    harness = f"the harness allows for {allowed.low_s * 1e3:.0f} to {allowed.high_s * 1e3:.0f} ms"
    rows.inform("counter lag", f"{fitted}; {harness}")


def _periods(rows: Rows, device: Device, counter: sensors.Periods, power: sensors.Periods) -> None:
    read_every = f"; read every {counter.read_every_s * 1e3:.2f} ms"
    if device.has_counter:
        rows.judge(
            "counter update period",
            spread([gap * 1e3 for gap in counter.gaps_s], "ms") + read_every,
            f"median <= {LONGEST_PERIOD_S * 1e3:.0f} ms",
            met=counter.median_s <= LONGEST_PERIOD_S,
        )
        rows.judge(
            "counter steps, irregularity",
            f"{counter.irregularity:.1%} of the period, beyond what the gaps between readings explain",
            f"<= {LARGEST_IRREGULARITY:.0%}",
            met=counter.irregularity <= LARGEST_IRREGULARITY,
        )
    seen = spread([gap * 1e3 for gap in power.gaps_s], "ms") + read_every
    if device.has_counter and device.power_method == "instant":
        met = power.median_s <= counter.median_s
        rows.judge("power update period", seen, "median <= the counter's", met=met)
    else:
        rows.inform("power update period", seen)


def _powers(rows: Rows, powers: sensors.Powers) -> None:
    if powers.instant_w is None or powers.slope_w is None:
        rows.inform(_POWER_ROW, str(powers))
        return
    off = powers.instant_w / powers.slope_w - 1.0
    criterion = f"instant / counter - 1 within {MIN_DISAGREEMENT:.0%}"
    rows.judge(_POWER_ROW, f"{powers}; {off:+.2%}", criterion, met=abs(off) <= MIN_DISAGREEMENT)


def _sampler_cost(rows: Rows, device: Device, plan: Plan) -> None:
    tell("what sampling costs")
    readings_us, samples_us = sensors.read_costs_us(device, _READ_COUNT)
    rows.inform("one read, one sample, idle GPU", f"{_cost(readings_us)}; {_cost(samples_us)}")
    one = sensors.sampler_share(device, 1, plan.watch_s)
    rows.inform("sampler at 100 ms, one GPU", f"{one:.2%} of a core")
    share = sensors.sampler_share(device, _SAMPLED_GPUS, plan.watch_s)
    name = f"sampler at 100 ms, {_SAMPLED_GPUS} GPUs (this one read {_SAMPLED_GPUS} times)"
    criterion = f"<= {LARGEST_SAMPLER_SHARE:.0%} of a core"
    rows.judge(name, f"{share:.2%} of a core", criterion, met=share <= LARGEST_SAMPLER_SHARE)


def _with_model(rows: Rows, machine: Machine, device: Device, work: inference.Work, plan: Plan) -> None:
    rows.inform("model", f"{plan.model} on {work.loaded.device}, batch {plan.batch_size}, {plan.backend}")
    tell("idle power with the model loaded")
    work.backend.drain()
    SystemClock().sleep(plan.settle_s)
    rows.inform("idle power, model loaded", str(sensors.compare_powers(device, plan.watch_s)))
    work.backend.run(work.passes[0])  # what is compiled or looked up at first use is not to be timed
    work.backend.drain()
    ratio = inference.compare_rates(work, device, plan.pairs, plan.pair_s)
    rows.judge(
        "tokens/s with / without sampling",
        f"{ratio.mean:.4f} (95 % interval {ratio.low:.4f} to {ratio.high:.4f}, {ratio.pairs} pairs of "
        f"{plan.pair_s:g} s, {ratio.tokens_per_second:.0f} output tokens/s without)",
        f"lower end >= {1 - LARGEST_SLOWDOWN:.2f}",
        met=ratio.low >= 1 - LARGEST_SLOWDOWN,
    )
    tell(f"energy of {plan.run_s:g} s by both methods")
    window, metered = inference.run_for(work, [device], plan.run_s)
    energy = metered.devices[0]
    true_j = machine.true_energy_j(device.uuid, window.opened_s, window.closed_s)
    _energy(rows, energy, window.closed_s - window.opened_s, true_j)
    tell("token stamps against CUDA events")
    _stamps(rows, machine, work, plan)


def _energy(rows: Rows, energy: DeviceEnergy, seconds: float, true_j: float | None) -> None:
    gap = "no samples" if energy.longest_gap_s is None else f"longest gap {energy.longest_gap_s * 1e3:.0f} ms"
    rows.inform("energy run", f"{seconds:.1f} s, {energy.samples} samples, {gap}")
    lag = "not to be told" if energy.counter_lag_s is None else f"{energy.counter_lag_s * 1e3:.0f} ms"
    rows.inform("counter lag in that run", lag)
    counter, integral, bound = energy.counter_j, energy.integral_j, energy.bound_j
    if integral is None or bound is None or energy.energy_j is None:
        rows.judge("energy by both methods", "no energy", "measured", met=False)
        return
    rows.inform("stored bound", f"{bound:.1f} J, {bound / energy.energy_j:.3%} of {energy.source}")
    if true_j is not None:
        seen = f"{energy.energy_j:.1f} J measured, {true_j:.1f} J true: {energy.energy_j / true_j - 1:+.3%}"
        rows.judge("energy against the truth", seen, "within the bound", met=abs(energy.energy_j - true_j) <= bound)
    if counter is None:
        rows.inform("energy by both methods", f"no counter; integral {integral:.1f} J")
        return
    allowed = max(MIN_DISAGREEMENT * counter, (energy.counter_bound_j or 0.0) + (energy.integral_bound_j or 0.0))
    rows.judge(
        "energy by both methods",
        f"counter {counter:.1f} J, integral {integral:.1f} J, ratio {counter / integral:.4f}",
        f"apart by <= {allowed:.1f} J: {MIN_DISAGREEMENT:.0%} or both bounds",
        met=abs(counter - integral) <= allowed,
    )


def _stamps(rows: Rows, machine: Machine, work: inference.Work, plan: Plan) -> None:
    if machine.simulated or plan.backend != "pytorch":
        rows.miss(["token stamps"], "needs CUDA: there are no CUDA events without a GPU and torch")
        return
    limits = {"mean <=": LARGEST_MEAN_STAMP_MS, "largest <=": LARGEST_STAMP_MS, "smallest >=": EARLIEST_STAMP_MS}
    criterion = ", ".join(f"{name} {limit:g} ms" for name, limit in limits.items())
    try:
        found = compare_stamps(work.backend, work.passes[0], plan.batch_size)
    except StampsUnmatched as error:
        rows.judge("token stamps", str(error), criterion, met=False)
        return
    low, high = min(found.each_ms), max(found.each_ms)
    rows.judge(
        "token stamps",
        f"behind the CUDA event by {found.mean_ms:.3f} ms (mean), {high:.3f} ms (largest), {low:.3f} ms (smallest), "
        f"+- {found.doubt_ms:.3f} ms; {len(found.each_ms)} tokens every {found.gap_ms:.2f} ms",
        criterion,
        met=found.mean_ms <= LARGEST_MEAN_STAMP_MS
        and high <= LARGEST_STAMP_MS
        and low >= EARLIEST_STAMP_MS - found.doubt_ms,
    )


def _cost(each_us: list[float]) -> str:
    return f"{np.median(each_us):.0f} us (p99 {np.percentile(each_us, 99):.0f} us)"
