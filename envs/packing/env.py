"""The packing problem as a cutting-plane environment."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from envs.cutting_planes import Couplings, CutProblem, CuttingPlaneEnv, MasterSettings
from envs.cutting_planes.env import Reward
from envs.errors import InvalidSetting
from envs.packing.baselines import linearised
from envs.packing.instance import Array, Packing, draw_packing

SETTINGS = MasterSettings(solver="auto")
"""A first cut leaves a knapsack. At N = 50 and K = 4 HiGHS takes a quarter of SCIP's time, and it needs no model to
be made for a new instance."""

Items: TypeAlias = int | tuple[int, int]


def packing_problem(instance: Packing, couplings: bool = False) -> CutProblem:
    """The instance with the reward (12), ``f(x) / f(x_lin)``: 1 is what the linearised objective reaches.

    Args:
        couplings: show the off-diagonal of A as edges between items (2 A_ij, what two items are worth together
            beyond each alone). The paper does not; without them no policy can tell such items.
    """
    n = len(instance)
    reference = instance.objective(linearised(instance))

    def reward(plan: Array) -> float:
        return instance.objective(plan) / reference

    edges = None
    if couplings:
        pairs = np.argwhere(~np.eye(n, dtype=np.bool_)).T
        edges = Couplings(pairs, 2.0 * instance.A[pairs[0], pairs[1]])
    return CutProblem(instance.program, np.arange(n), reward, instance.violation, instance.features, edges)


class PackingEnv(CuttingPlaneEnv):
    """Packings (11) drawn at random, with the objective hidden and the reward (12).

    Source: seed 001, section 5.1; specification boo, section 3.

    Args:
        items: N of every instance, or a range ``(least, most)`` from which each draws its own.
        cuts: K. reward, settings: see `CuttingPlaneEnv`.
        couplings: whether A's off-diagonal is observed, as edges between items; the paper's False.

    ``reset(options={"instance": Packing})`` plays a given instance.
    """

    def __init__(
        self,
        items: Items = 50,
        *,
        cuts: int = 2,
        couplings: bool = False,
        reward: Reward = "per_cut",
        settings: MasterSettings = SETTINGS,
    ) -> None:
        low, high = (items, items) if isinstance(items, int) else tuple(items)
        if not 1 <= low <= high:
            raise InvalidSetting(
                "items", f"are {items}", "Give a number, or a least and a most, of at least 1."
            )
        self.items, self.couplings = (low, high), couplings
        super().__init__(self._problem, cuts=cuts, reward=reward, settings=settings)

    def _problem(self, rng: np.random.Generator) -> CutProblem:
        self.instance = draw_packing(rng, int(rng.integers(self.items[0], self.items[1] + 1)))
        return packing_problem(self.instance, self.couplings)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin an episode; see the class and `CuttingPlaneEnv.reset`."""
        if options and "instance" in options:
            self.instance = options["instance"]
            if "problem" not in options:
                options = {**options, "problem": packing_problem(self.instance, self.couplings)}
        return super().reset(seed=seed, options=options)

    @property
    def again(self) -> dict[str, Any]:
        """Options of `reset` with which another environment plays this instance."""
        return {"instance": self.instance, "problem": self.problem}
