"""How many cycles a study still wants, given what it has: a number from the start, or Stein's two stages."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from images.contract.scheduling import AdaptiveCycles
from runner.studies.adaptive import begin, second_stage
from runner.studies.scan import Published
from runner.studies.settings import Adaptive
from runner.studies.study import Experiment, Study


class CycleGoal:
    """
    Args:
        known: what earlier runs of the study found; the number of cycles is never computed twice.

    Attributes:
        adaptive: the rule with what it found; None of a fixed number of cycles.
    """

    def __init__(self, study: Study, known: AdaptiveCycles | None = None) -> None:
        self._study = study
        rule = study.cycles
        self._rule = rule if isinstance(rule, Adaptive) else None
        self.adaptive = None if self._rule is None else known or begin(self._rule)
        self._never: set[str] = set()

    def wanted(self, published: Published, tried: Collection[int] = (), aside: Collection[str] = ()) -> range:
        """The cycles that should have results.

        A block that was tried in vain, or whose result is invalid, is replaced by a further one, up to the most.

        Args:
            tried: cycles that this call of the runner has worked on.
            aside: hashes of configurations that fail in every cycle; the others' blocks are complete without them.
        """
        if self._rule is None or self.adaptive is None:
            assert isinstance(self._study.cycles, int)
            return range(1, self._study.cycles + 1)
        target = self.adaptive.n or self.adaptive.min
        if self.adaptive.outcome == "not_measured":
            return range(1, target + 1)
        in_vain = set(tried) - set(self.complete(published, sorted(tried), aside))
        last = useful = 0
        while useful < target and last < self.adaptive.max:
            last += 1
            useful += last not in in_vain
        return range(1, last + 1)

    def look(self, published: Published, tried: Collection[int], aside: Collection[str]) -> str | None:
        """After cycles were run: compute the number of cycles once the pilot is whole, and say what was found."""
        if self._rule is None or self.adaptive is None or self.adaptive.outcome in ("not_measured", "reached"):
            return None
        if self.adaptive.n is None and len(tried) >= self._rule.min:
            self._never |= {one.config_hash for one in self._study.experiments if not _has_any(published, one, tried)}
        complete = self.complete(published, sorted(tried), aside)
        found = self._end_pilot(published, complete, tried, aside) if self.adaptive.n is None else None
        n, outcome = self.adaptive.n, self.adaptive.outcome
        was_cut = any(estimate.n_required > self.adaptive.max for estimate in self.adaptive.pilot)
        if n is not None and outcome != "not_measured" and not was_cut and len(complete) >= n:
            self.adaptive = self.adaptive.model_copy(update={"outcome": "reached"})
        return found

    def close(self) -> None:
        """No further cycle is wanted: what is not reached now never will be."""
        if self.adaptive is not None and self.adaptive.outcome == "running":
            self.adaptive = self.adaptive.model_copy(update={"outcome": "not_reached"})

    def complete(self, published: Published, cycles: Sequence[int], aside: Collection[str]) -> list[int]:
        """Those of `cycles` in which every experiment has a valid value of the metric."""
        assert self.adaptive is not None
        metric, members = self.adaptive.metric, self._members(aside)
        return [
            cycle
            for cycle in cycles
            if published.has(members, cycle)
            and all(published.value(member, cycle, metric) is not None for member in members)
        ]

    def _end_pilot(
        self, published: Published, complete: list[int], tried: Collection[int], aside: Collection[str]
    ) -> str | None:
        assert self._rule is not None
        rule, members = self._rule, self._members(aside)
        if not members:
            return None
        if len(complete) >= rule.min:
            pilot = {
                one: [
                    value
                    for cycle in complete[: rule.min]
                    if (value := published.value(one, cycle, rule.metric)) is not None
                ]
                for one in members
            }
            self.adaptive = second_stage(rule, pilot)
            return self._describe()
        without = [one for one in members if self._is_unmeasured(published, one, tried)]
        if without:
            self.adaptive = begin(rule).model_copy(update={"n": rule.min, "outcome": "not_measured"})
            return f"{rule.metric} has no valid value for {without[0].name}, so {rule.min} cycles it stays"
        return None

    def _is_unmeasured(self, published: Published, experiment: Experiment, tried: Collection[int]) -> bool:
        assert self._rule is not None
        has = [cycle for cycle in tried if published.has([experiment], cycle)]
        return len(has) >= self._rule.min and all(
            published.value(experiment, cycle, self._rule.metric) is None for cycle in has
        )

    def _members(self, aside: Collection[str]) -> list[Experiment]:
        """Whose blocks count: those that have any result, and those of the pilot once it is over."""
        assert self.adaptive is not None
        pilot = {estimate.measurement_config_hash for estimate in self.adaptive.pilot}
        return [
            one
            for one in self._study.experiments
            if one.config_hash not in aside
            and one.config_hash not in self._never
            and (not pilot or one.config_hash in pilot)
        ]

    def _describe(self) -> str:
        found = self.adaptive
        assert found is not None
        if found.outcome == "not_measured":
            return f"the mean of {found.metric} is 0, so {found.n} cycles it stays"
        widest = max(found.pilot, key=lambda estimate: estimate.n_required)
        text = (
            f"pilot of {found.min}: {found.n} cycles of every experiment for {found.metric} +- {found.half_width:.1%} "
            f"(most for {widest.experiment}: s is {widest.s / abs(widest.mean):.2%} of the mean)"
        )
        if found.outcome == "not_reached":
            text += f"; target not reached: it would take {widest.n_required}, and max is {found.max}"
        return text


def _has_any(published: Published, experiment: Experiment, cycles: Collection[int]) -> bool:
    return any(published.has([experiment], cycle) for cycle in cycles)
