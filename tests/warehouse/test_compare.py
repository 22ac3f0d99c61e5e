"""Comparisons: which cycles and campaigns belong together, and the command from ingest to exit code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from images.contract.config import ExperimentConfig
from tests.warehouse.results import edit_json, make_result, save, save_failure, warehouse
from warehouse.compare import Cycle, compare_metric

A = [10.0, 11.0, 10.4, 10.9]
B = [9.1, 9.9, 9.6, 9.5]


def cycles(values: Sequence[float | None], gpu: str | None = "GPU-a", study: str | None = "s") -> list[Cycle]:
    gpus = None if gpu is None else (gpu,)
    return [Cycle(study, f"c{at:03d}", gpus, 100, 10, {"x": value}) for at, value in enumerate(values, 1)]


def test_pairs_are_of_one_block_on_one_gpu_set() -> None:
    compared = compare_metric("x", cycles([1.0, 2.0, 3.0, None]), cycles([2.0, 4.0, 6.0, 9.0]))
    assert compared.ratio is not None
    assert (compared.ratio.method, compared.ratio.n) == ("paired", 3)
    assert compared.ratio.value == pytest.approx(2.0)
    assert (compared.mean_b, compared.confounded) == (4.0, None)


@pytest.mark.parametrize(
    ("b", "confounded"),
    [
        (cycles(B, study="t"), None),
        (cycles(B, gpu="GPU-b"), "different GPUs"),
        (cycles(B, gpu=None), "GPU confounded: the GPUs are not recorded"),
        (cycles(B[:2], study="t") + cycles(B[2:], gpu="GPU-b", study="t"), "equally often"),
    ],
)
def test_without_a_common_block_groups_are_independent(b: list[Cycle], confounded: str | None) -> None:
    compared = compare_metric("x", cycles(A), b)
    assert compared.ratio is not None
    assert compared.ratio.method == "welch"
    assert (confounded is None) == (compared.confounded is None)
    assert confounded is None or confounded in str(compared.confounded)


@pytest.mark.parametrize(
    ("b", "problem"), [([None, None], "not measured in B"), ([1.0, 0.0], "above 0"), ([1.0, -2.0], "above 0")]
)
def test_what_has_no_ratio_is_not_comparable(b: list[float | None], problem: str) -> None:
    compared = compare_metric("x", cycles([1.0, 2.0]), cycles(b))
    assert compared.ratio is None
    assert problem in str(compared.problem)


GPU = {"gpu_names": ["H100"], "gpu_uuids": ["GPU-a"], "image_id": "sha256:1"}


class Lake:
    """Results of some experiments, and the comparisons of them."""

    def __init__(self, root: Path, db: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._root, self._db, self._capsys = root, db, capsys
        self._count = 0

    def add(
        self,
        study: str,
        experiment: str,
        energies_j: Sequence[float],
        config: dict[str, Any] | None = None,
        environment: dict[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        for cycle, energy_j in enumerate(energies_j, start=1):
            self._count += 1
            named: dict[str, Any] = {"study": study, "experiment": experiment, "cycle": cycle, "block": f"c{cycle:03d}"}
            result = make_result(
                self._count,
                energy_j=energy_j,
                n_requests=None,
                config=ExperimentConfig(**{"backend": "stub", **(config or {})}),
                environment=GPU | (environment or {}),
                **named | fields,
            )
            self.last = save(self._root, result)

    def fail(self, study: str, experiment: str, config: dict[str, Any], count: int) -> None:
        """Jobs of `config` that failed."""
        asked = ExperimentConfig(**{"backend": "stub", **config})
        for _ in range(count):
            self._count += 1
            named = {"study": study, "experiment": experiment, "config": asked.model_dump(mode="json")}
            named["measurement_config_hash"] = asked.measurement_config_hash()
            save_failure(self._root, self._count, **named)

    def ingest(self) -> None:
        assert warehouse("ingest", self._root, db=self._db) == 0
        self._capsys.readouterr()

    def compare(self, *arguments: str) -> tuple[int, str]:
        code = warehouse("compare", *arguments, db=self._db)
        said = self._capsys.readouterr()
        return code, said.out + said.err

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        code, text = self.compare(*arguments, "--format", "json")
        assert code == 0, text
        found: list[dict[str, Any]] = json.loads(text)["comparisons"]
        return found


@pytest.fixture
def lake(root: Path, db: Path, capsys: pytest.CaptureFixture[str]) -> Lake:
    return Lake(root, db, capsys)


NOISE = (100.0, 108.0, 95.0, 103.0)


def test_two_experiments_of_a_study_are_compared_in_blocks(lake: Lake) -> None:
    lake.add("s", "base", NOISE, {"batch_size": 1})
    lake.add("s", "new", [0.9 * energy_j * off for energy_j, off in zip(NOISE, (1, 1.01, 0.99, 1), strict=True)])
    lake.ingest()
    code, text = lake.compare("base", "new")
    assert code == 0
    assert "B uses 10.0 % less energy per output token, 95 % interval 8.8 to 11.2 %" in text
    assert "4 pairs" in text
    assert "config.batch_size" in text
    (found,) = lake.json("new", "base", "--metric", "total_energy_j")
    (metric,) = found["metrics"]
    assert (metric["method"], metric["ratio"]) == ("paired", pytest.approx(1 / 0.9, rel=1e-3))


def test_gate_decides_the_exit_code(lake: Lake) -> None:
    lake.add("s", "base", NOISE, {"batch_size": 1})
    lake.add("s", "new", [1.1 * energy_j * off for energy_j, off in zip(NOISE, (1, 1.01, 0.99, 1), strict=True)])
    lake.ingest()

    def gate(*limits: str, strict: bool = False) -> int:
        options = [part for limit in limits for part in ("--fail-if", limit)]
        return lake.compare("base", "new", *options, *(["--strict-gate"] if strict else []))[0]

    assert gate("energy_per_output_token_j > +3%") == 1
    assert gate("energy_per_output_token_j > +20%", strict=True) == 0
    assert gate("energy_per_output_token_j > +10%") == 0
    assert gate("energy_per_output_token_j > +10%", strict=True) == 3
    assert gate("energy_adjusted_j > +3%", strict=True) == 3
    assert gate("energy_per_output_token_j > +20%", "total_energy_j > +3%") == 1
    code, text = lake.compare("base", "new", "--fail-if", "nonsense > +3%")
    assert (code, "there is no metric 'nonsense'" in text) == (2, True)


def test_two_studies_pair_the_campaigns_of_one_configuration(lake: Lake) -> None:
    for study, factor in (("before", 1.0), ("after", 1.2)):
        for size in (1, 2):
            energies = [energy_j * factor * size for energy_j in NOISE]
            image = {"image_id": f"sha256:{study}"}
            lake.add(study, f"size-{size}", energies, {"batch_size": size}, image)
    lake.add("after", "alone", NOISE, {"batch_size": 3})
    lake.ingest()
    found = lake.json("before", "after", "--metric", "total_energy_j")
    assert [(one["a"]["experiment"], one["b"]["experiment"]) for one in found] == [
        ("size-1", "size-1"),
        ("size-2",) * 2,
    ]
    assert {one["metrics"][0]["method"] for one in found} == {"welch"}
    assert [one["metrics"][0]["ratio"] for one in found] == pytest.approx([1.2, 1.2])
    assert found[0]["different"] == ["study", "image"]
    assert found[0]["metrics"][0]["confounded"] is None
    _, text = lake.compare("before", "after")
    assert "Without a counterpart, of B: " in text
    assert "after alone stub" in text


def test_settings_and_hardware_tell_which_campaigns_belong_together(lake: Lake) -> None:
    for dtype in ("float16", "bfloat16"):
        for gpu in ("H100", "H200"):
            for size in (1, 2):
                where = {"gpu_names": [gpu], "gpu_uuids": [f"GPU-{gpu}"]}
                lake.add(f"s-{gpu}", f"{dtype}-{size}", NOISE, {"batch_size": size, "dtype": dtype}, where)
    lake.ingest()
    found = lake.json("config.batch_size=1", "batch_size=2")
    assert len(found) == 4
    assert all(one["different"] == ["config.batch_size"] for one in found)
    (found_one,) = lake.json("dtype=float16,batch_size=1,hardware=H100", "dtype=bfloat16,batch_size=1,hardware=H100")
    assert found_one["different"] == ["config.dtype"]
    assert {metric["method"] for metric in found_one["metrics"] if metric["problem"] is None} == {"paired"}
    assert len(lake.json("dtype=float16", "dtype=bfloat16", "--study", "s-H100")) == 2


def test_a_difference_of_gpus_is_said_and_does_not_pass(lake: Lake) -> None:
    lake.add("a", "base", NOISE)
    lake.add("b", "base", NOISE, environment={"gpu_uuids": ["GPU-b"]})
    lake.ingest()
    code, text = lake.compare("a", "b", "--fail-if", "total_energy_j > +50%", "--strict-gate")
    assert code == 3
    assert "GPU confounded" in text


def test_a_configuration_that_vanished_does_not_pass(lake: Lake) -> None:
    for size in (4, 8):
        lake.add("base", f"b{size}", NOISE, {"batch_size": size})
    lake.add("new", "b4", NOISE, {"batch_size": 4})
    lake.fail("new", "b8", {"batch_size": 8}, 3)
    lake.ingest()
    gate = ("base", "new", "--fail-if", "total_energy_j > +50%")
    code, text = lake.compare(*gate, "--strict-gate")
    assert code == 3
    assert "gate: within: total_energy_j > +50%" in text
    assert "gate: inconclusive: total_energy_j > +50% (1 of A's campaigns without a counterpart in B: " in text
    assert "base b8 stub; B's runs of the same settings: 3 failed, 0 invalid)" in " ".join(text.split())
    assert lake.compare(*gate)[0] == 0
    code, text = lake.compare(*gate, "--format", "json")
    (decision,) = json.loads(text)["gate_without_counterpart"]
    assert (decision["outcome"], decision["lower"], decision["upper"]) == ("inconclusive", None, None)
    # What only B has is news, not a loss; and without a condition there is nothing to decide.
    assert lake.compare("new", "base", "--fail-if", "total_energy_j > +50%", "--strict-gate")[0] == 0
    assert lake.compare("base", "new", "--strict-gate")[0] == 0


def test_what_did_not_become_a_cycle_is_counted_beside_those_that_did(lake: Lake) -> None:
    lake.add("s", "base", NOISE, {"batch_size": 1})
    lake.add("s", "base", NOISE[:2], {"batch_size": 1})
    lake.add("s", "base", [1.0], {"batch_size": 1}, measurement_valid=False, invalid_reasons=["throttled"], cycle=9)
    lake.fail("s", "base", {"batch_size": 1}, 3)
    lake.add("s", "new", NOISE)
    lake.ingest()
    lines = lake.compare("base", "new")[1].splitlines()
    assert lines[1].strip() == "4 cycles (1 invalid left out, 3 failed, 2 replaced by newer runs)"
    assert lines[3].strip() == "4 cycles (0 invalid, 0 failed)"
    assert "5 cycles (1 invalid counted, 3 failed, " in lake.compare("base", "new", "--all")[1]
    side = lake.json("base", "new")[0]["a"]
    assert [side[name] for name in ("n_cycles", "n_failed", "n_invalid", "n_superseded")] == [4, 3, 1, 2]


@pytest.mark.parametrize(
    ("environment", "confounded"),
    [
        ({"gpu_names": None, "gpu_uuids": None, "device": None}, True),
        ({"gpu_names": None, "gpu_uuids": None, "device": "NVIDIA H100"}, True),
        ({"gpu_names": ["H100"], "gpu_uuids": None, "device": "cpu"}, True),
        ({"gpu_names": None, "gpu_uuids": None, "device": "cpu"}, False),
        ({"gpu_names": [], "gpu_uuids": [], "device": None}, False),
    ],
)
def test_only_a_recorded_absence_of_gpus_is_none(environment: dict[str, Any], confounded: bool, lake: Lake) -> None:
    for study in ("a", "b"):
        lake.add(study, "base", NOISE, environment=environment)
    lake.ingest()
    code, text = lake.compare("a", "b", "--fail-if", "total_energy_j > +50%", "--strict-gate")
    assert code == (3 if confounded else 0)
    assert ("GPU confounded: the GPUs are not recorded" in text) is confounded


def test_without_an_environment_the_gpus_are_not_recorded(lake: Lake) -> None:
    for study in ("a", "b"):
        lake.add(study, "base", NOISE, environment_snapshot=None)
    lake.ingest()
    code, text = lake.compare("a", "b", "--fail-if", "total_energy_j > +50%", "--strict-gate")
    assert (code, "GPU confounded: the GPUs are not recorded" in text) == (3, True)


def test_no_name_reaches_the_terminal_raw_or_at_length(lake: Lake) -> None:
    evil = "\x1b]0;owned\x07" + "x" * 100_000
    for study in (evil, f"{evil}2"):
        lake.add(study, "new", NOISE, {"batch_size": 1})
        lake.add(study, evil, NOISE, {"batch_size": 2})
    edit_json(lake.last / "result.json", effective_config={"backend": "stub", evil: 1})
    lake.ingest()
    gate = ("--fail-if", "total_energy_j > 1%")
    for arguments in (
        ("batch_size=1", "batch_size=2", *gate),
        ("batch_size=1", "batch_size=3"),
        ("batch_size=1", "model=none"),
        ("experiment=new", "nothing"),
        ("experiment=new", evil),
        ("new", f"experiment={evil}"),
        ("new", f"config.{evil.replace(chr(27), '').replace(';', '')}=1"),
        ("new", "new", "--study", "no"),
        ("new", "new", "--fail-if", evil),
        ("new", "new", "--metric", evil),
    ):
        text = lake.compare(*arguments)[1]
        assert "\x1b" not in text, arguments
        assert "\x07" not in text, arguments
        assert max(map(len, text.splitlines())) < 4000, arguments


def test_other_prompts_are_said(lake: Lake) -> None:
    lake.add("a", "base", NOISE, prompts_sha256="1" * 64)
    lake.add("b", "base", NOISE, prompts_sha256="2" * 64)
    lake.add("c", "base", NOISE, prompts_sha256="2" * 64)
    lake.add("d", "base", NOISE, prompts_sha256=None)
    lake.ingest()
    assert "different_prompts: " in lake.compare("a", "b")[1]
    assert "different_prompts" not in lake.compare("b", "c")[1] + lake.compare("b", "d")[1]
    found = [lake.json(a, b)[0]["different_prompts"] for a, b in (("a", "b"), ("b", "c"), ("b", "d"))]
    assert found == [True, False, None]


def test_other_output_lengths_are_said(lake: Lake) -> None:
    lake.add("s", "base", NOISE)
    lake.add("s", "new", NOISE, {"batch_size": 1}, output_tokens=12)
    lake.ingest()
    assert lake.json("base", "new")[0]["different_output_length"] is True
    assert "different_output_length: 10.0 output tokens per request in A, 12.0 in B" in lake.compare("base", "new")[1]


def test_what_could_not_have_been_seen_is_no_equality(lake: Lake) -> None:
    lake.add("s", "base", [100.0, 108.0, 95.0], {"batch_size": 1})
    lake.add("s", "new", [104.0, 100.0, 98.0])
    lake.ingest()
    _, text = lake.compare("base", "new", "--metric", "total_energy_j")
    assert "no difference that 3 pairs could have shown: it would have had to be" in text


def test_invalid_and_simulated_runs_are_left_out(lake: Lake) -> None:
    lake.add("s", "base", [100.0, 101.0, 102.0], {"batch_size": 1})
    lake.add("s", "base", [900.0], {"batch_size": 1}, measurement_valid=False, invalid_reasons=["throttled"], cycle=9)
    lake.add("s", "new", [50.0, 51.0, 52.0])
    lake.add("s", "fake", NOISE, {"batch_size": 2}, {"simulated": True}, measurement_valid=False,
             invalid_reasons=["simulated_device"])  # fmt: skip
    lake.ingest()
    assert lake.json("base", "new")[0]["a"]["n_cycles"] == 3
    assert lake.json("base", "new", "--all")[0]["a"]["n_cycles"] == 4
    code, text = lake.compare("base", "fake")
    assert (code, "only simulated or invalid runs" in text) == (2, True)


@pytest.mark.parametrize("b", ["dead", "study=t,batch_size=4", "config.batch_size=4"])
def test_what_failed_altogether_is_said_to_have_failed(b: str, lake: Lake) -> None:
    lake.add("s", "base", NOISE, {"batch_size": 1})
    lake.fail("t", "dead", {"batch_size": 4}, 3)
    lake.ingest()
    code, text = lake.compare("base", b)
    assert (code, "has no result to compare: all 3 jobs failed" in text) == (2, True)
    assert "'t' has no result to compare" in lake.compare("base", "base", "--study", "t")[1]


def test_metrics_without_a_ratio_do_not_crash(lake: Lake) -> None:
    lake.add("s", "base", [100.0] * 3, {"batch_size": 1}, energy_adjusted_j=-1.0)
    lake.add("s", "new", [100.0] * 3, energy_adjusted_j=2.0)
    lake.ingest()
    _, text = lake.compare("base", "new", "--metric", "energy_adjusted_j", "--metric", "total_energy_j",
                           "--metric", "itl_p95_ms")  # fmt: skip
    assert "energy_adjusted_j: not comparable" in text
    assert "energy (total_energy_j): no difference, every cycle is the same" in text
    assert "ITL 95th percentile (itl_p95_ms): not comparable, not measured in A and B" in text


def test_what_cannot_be_compared_is_one_line_that_says_how(lake: Lake) -> None:
    lake.add("s", "base", NOISE, {"batch_size": 1}, {"driver_version": "550"})
    lake.add("t", "base", NOISE, {"batch_size": 1}, {"driver_version": "550"})
    lake.add("s", "new", NOISE, environment={"driver_version": "551"})
    lake.add("s", "new", NOISE, environment={"driver_version": "552"})
    lake.add("u", "stub", NOISE, {"batch_size": 2, "dtype": "float16"})
    lake.ingest()
    for arguments, said in (
        (("base", "nothing"), "no campaign is called 'nothing'; there are studies s, t, u; experiments base, new"),
        (("base", "base"), "A and B both mean campaign"),
        (("study=s", "backend=stub"), "A and B both mean campaign"),
        (("base", "stub"), "'stub' is more than one thing. Write experiment=stub or backend=stub"),
        (("base", "nonsense=3"), "is not a selector"),
        (("base", "batch_size=99"), "no campaign has batch_size=99; of those that the rest leaves, it is 1, 2, 8"),
        (("base", "config.nonsense=3"), "no configuration has 'nonsense'"),
        (("batch_size=1", "batch_size=8"), "B means 2 campaigns that go with the same one"),
        (("batch_size=1", "batch_size=2"), "differ in study, driver_version, config.dtype, too"),
        (("base", "new", "--study", "v"), "there is no study 'v'"),
        (("base", "new", "--confidence", "2"), "--confidence"),
    ):
        code, text = lake.compare(*arguments)
        assert code == 2, (arguments, text)
        assert said in text
        assert text.count("\n") == 1


def test_no_figure_is_cut_on_a_narrow_terminal(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lake.add("s", "base", NOISE, {"batch_size": 1})
    lake.add("s", "new", [1.1 * energy_j for energy_j in NOISE])
    lake.ingest()
    assert "\u2026" not in lake.compare("base", "new")[1]


def test_an_empty_warehouse_says_so(lake: Lake) -> None:
    code, text = lake.compare("a", "b")
    assert (code, "nothing has been ingested" in text) == (2, True)
