"""Environments in step: as if each were stepped alone, in groups that share instance and luck, always feasible."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.cutting_planes import Cut, CuttingPlaneEnv, CutVectorEnv, MasterSettings
from envs.cutting_planes.master import Master
from envs.errors import InvalidSetting
from envs.job_shop import JobShopEnv
from envs.packing import PackingEnv, draw_packing
from envs.packing.env import packing_problem
from solver_pool.backends import solve
from solver_pool.errors import SolverPoolError
from solver_pool.options import SolveOptions
from solver_pool.pool import SolverPool
from solver_pool.problem import MixedIntegerProgram
from solver_pool.solution import Solution, Status

EXACT = MasterSettings(solver="auto", gap=0.0, time_limit=60.0)
"""No limit that a busy machine could reach: everything repeats."""


class Direct(SolverPool):
    """Solves as a master alone does. A pool gives every place of a sequence a seed of its own, and of several
    schedules that are worth the same another one may come out."""

    calls: list[int]

    def solve(self, problems: Any, options: SolveOptions = SolveOptions(), *_: Any, **__: Any) -> Any:
        self.calls = [*getattr(self, "calls", []), len(problems)]
        return [solve(problem, options) for problem in problems]


def packing(masters: MasterSettings = EXACT) -> PackingEnv:
    return PackingEnv((5, 9), cuts=3, couplings=True, settings=masters)


def shop_cut(masters: MasterSettings = EXACT) -> JobShopEnv:
    return JobShopEnv(6, months=12, copies=1, cuts=1, replan="cut", settings=masters)


def shop_reuse(masters: MasterSettings = EXACT) -> JobShopEnv:
    return JobShopEnv(6, months=9, copies=1, cuts=2, replan="reuse", settings=masters)


KINDS = {"packing": packing, "shop, a cut each time": shop_cut, "shop, cuts reused": shop_reuse}


def random_cuts(env: CutVectorEnv, rng: np.random.Generator) -> list[Cut]:
    sizes = [one.action_space.size for one in env.envs]
    return [Cut(rng.standard_normal(size), float(rng.standard_normal())) for size in sizes]


def seed_of(seed: int, group: int) -> int:
    """With which the first environment of a group is reset."""
    return int(np.random.SeedSequence([seed, group]).generate_state(1)[0])


def reached(master: Master, tolerance: float) -> bool:
    """Whether the plan that stands is worth what the cuts allow in the box of the variables, which no plan exceeds."""
    assert not master.program.c.any()
    low, high = (side[master.cut_variables] for side in (master.program.low, master.program.high))
    bound = min(cut.b + np.maximum(cut.w * low, cut.w * high).sum() for cut in master.cuts)
    value = min(cut.b + cut.w @ master.plan[master.cut_variables] for cut in master.cuts)
    return bool(bound - value <= tolerance * max(1.0, abs(value)))


def own(infos: dict[str, Any], i: int) -> dict[str, Any]:
    return {k: v[i] for k, v in infos.items() if not k.startswith("_") and infos[f"_{k}"][i]}


def play(env: CutVectorEnv, rng: np.random.Generator, seed: int | None) -> list[Any]:
    """One episode in all environments; every result, for comparison."""
    seen: list[Any] = [env.reset(seed=seed)]
    over = np.zeros(env.num_envs, dtype=bool)
    while not over.all():
        seen.append(env.step(random_cuts(env, rng)))
        over = seen[-1][2]
    return seen


# --- As if stepped alone --------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_environments_in_step_are_those_stepped_one_by_one(kind: str, group: int) -> None:
    together = CutVectorEnv([KINDS[kind]() for _ in range(4)], Direct(), group)
    alone = [KINDS[kind]() for _ in range(4)]
    rng, twin = np.random.default_rng(5), np.random.default_rng(5)
    for episode in range(2):
        seed = 11 if episode == 0 else None
        seen = play(together, rng, seed)
        firsts = []
        for i, env in enumerate(alone):
            if i % group == 0:
                firsts.append(env.reset(seed=None if seed is None else seed_of(seed, i // group)))
            else:
                firsts.append(env.reset(options=alone[i - i % group].again))
        observations, infos = seen[0]
        over = [False] * 4
        for i in range(4):
            assert observations[i] == firsts[i][0]
            assert own(infos, i) == firsts[i][1]
        for observations, rewards, terminated, truncated, infos in seen[1:]:
            cuts = random_cuts(CutVectorEnv(alone, Direct()), twin)
            for i, env in enumerate(alone):
                if over[i]:
                    continue
                observation, reward, over[i], short, info = env.step(cuts[i])
                assert observations[i] == observation
                assert (rewards[i], terminated[i], truncated[i]) == (reward, over[i], short)
                assert own(infos, i) == info
        assert all(over)
    assert together.checked == sum(env.feasibility.checked for env in alone) > 0
    assert together.infeasible == 0


def enumerated(env: PackingEnv) -> float:
    """The largest phi of all selections that fit."""
    program = env.master.program
    x = np.array(list(itertools.product((0.0, 1.0), repeat=len(program.c))))
    x = x[x @ np.asarray(program.A)[0] <= program.row_high[0]]
    return float(np.min([cut.b + x @ cut.w for cut in env.master.cuts], axis=0).max())


@pytest.mark.parametrize("seed", [3, 4])
def test_the_pool_gives_the_same_values(seed: int) -> None:
    """Optima are what they are, whichever seed the pool gives a program."""
    one, other = (CutVectorEnv([packing() for _ in range(6)], pool, 3) for pool in (Direct(), SolverPool()))
    assert list(one.reset(seed=seed)[0]) == list(other.reset(seed=seed)[0])
    rng = np.random.default_rng(1)
    for _ in range(3):
        cuts = random_cuts(one, rng)
        graphs, expected = one.step(cuts)[0], other.step(cuts)[0]
        assert len(one.solutions) == 6
        for env, a, b in zip(one.envs, one.solutions, other.solutions, strict=True):
            assert a.status is b.status is Status.OPTIMAL
            best = enumerated(env)  # type: ignore[arg-type]
            assert b.phi == pytest.approx(best, abs=1e-9), "on the pool"
            assert a.phi == pytest.approx(best, abs=1e-9), "in this process"
        assert list(graphs) == list(expected)


def test_masters_of_a_round_that_no_standing_plan_settles_are_one_call() -> None:
    """Before the first cut nothing is packed, which is the best plan if all weights are negative."""
    pool, negative = Direct(), (1, 3)
    env = CutVectorEnv([packing() for _ in range(5)], pool)
    env.reset(seed=0)
    cuts = [
        Cut((-1.0 if i in negative else 1.0) * (0.1 + np.abs(cut.w)), cut.b)
        for i, cut in enumerate(random_cuts(env, np.random.default_rng(0)))
    ]
    env.step(cuts)
    assert pool.calls == [3]
    assert len(env.solutions) == 5
    for i, (one, solution) in enumerate(zip(env.envs, env.solutions, strict=True)):
        problem = one.master.with_cuts()  # type: ignore[attr-defined]
        assert (solution.status, solution.cut) == (Status.OPTIMAL, 1)
        assert (-problem.c @ solution.plan) == pytest.approx(-solve(problem).objective, abs=1e-9)
        assert solution.plan.any() == (i not in negative)
    # The same cuts higher up never bind: each plan is still the best, and those that were settled still are.
    seen = [solution.plan for solution in env.solutions]
    assert not any(plan.all() for plan in seen), "not everything fits"
    env.step([Cut(cut.w, cut.b + 1e3) for cut in cuts])
    assert pool.calls == [3, 3]
    for before, solution in zip(seen, env.solutions, strict=True):
        np.testing.assert_array_equal(solution.plan, before)


def test_rounds_of_different_lengths_are_played_with_one_call_each() -> None:
    """One step plays a shop to its end; delays differ, and with them the number of plans. Counted with twins."""
    masters, asked = replace(EXACT, gap=1e-6), 0
    shops, twins = ([shop_reuse(masters) for _ in range(4)] for _ in range(2))
    pool = Direct()
    env = CutVectorEnv(shops, pool)
    env.reset(seed=2)
    calls: list[int] = []
    for i, twin in enumerate(twins):
        twin.reset(seed=seed_of(2, i))
    rng = np.random.default_rng(0)
    for last in (False, True):
        cuts = random_cuts(env, rng)
        over = env.step(cuts)[2]
        assert over.all() == last
        steps = [twin.stepping(cut) for twin, cut in zip(twins, cuts, strict=True)]
        pending = [(step, next(step)) for step in steps]
        while pending:
            asked += len(pending)
            calls.append(sum(not reached(master, masters.gap) for _, master in pending))
            waiting, pending = pending, []
            for step, master in waiting:
                try:
                    pending.append((step, step.send(master.solve())))
                except StopIteration:
                    continue
    solves = [shop.planner.solves for shop in shops]
    assert solves == [twin.planner.solves for twin in twins]
    assert len(set(solves)) > 1
    assert asked == sum(solves)
    assert pool.calls == [count for count in calls if count]
    assert 1 < max(pool.calls) <= 4
    assert 0 < sum(pool.calls) < asked, "some are settled, some are not"


@pytest.mark.parametrize("kind", KINDS)
def test_without_time_nobody_is_called_and_plans_are_feasible(kind: str) -> None:
    pool, masters = Direct(), replace(EXACT, time_limit=0.0)
    together = CutVectorEnv([KINDS[kind](masters) for _ in range(4)], pool, 2)
    for seed in (3, None):
        play(together, np.random.default_rng(4), seed)
        assert all(solution.status.usable for solution in together.solutions)
    assert not hasattr(pool, "calls")
    assert together.checked > 8
    assert together.infeasible == 0


# --- Groups and seeds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_plays_one_instance_with_one_luck(kind: str) -> None:
    envs = [KINDS[kind]() for _ in range(6)]
    env = CutVectorEnv(envs, Direct(), 3)
    for seed in (0, None):
        observations, _ = env.reset(seed=seed)
        for i in range(6):
            assert observations[i] == observations[i - i % 3]
        assert observations[0] != observations[3]
        if kind == "packing":
            assert all(one.problem is envs[i - i % 3].problem for i, one in enumerate(envs))
        else:
            luck = [one.planner.simulation.delays for one in envs]
            assert all(np.array_equal(luck[i], luck[i - i % 3]) for i in range(6))
            assert not np.array_equal(luck[0], luck[3])
        cuts = random_cuts(env, np.random.default_rng(0))
        _, rewards, over, _, _ = env.step([cuts[0]] * 3 + [cuts[3]] * 3)
        assert len(set(rewards[:3])) == len(set(rewards[3:])) == 1
        assert list(over[:3]) == [over[0]] * 3


def test_members_of_a_group_differ_by_their_actions_alone() -> None:
    env = CutVectorEnv([packing() for _ in range(4)], Direct(), 4)
    env.reset(seed=0)
    size = env.envs[0].action_space.size
    w = np.random.default_rng(0).standard_normal(size)
    observations, rewards, _, _, _ = env.step([Cut(w, 0.0), Cut(-w, 0.0), Cut(w, 5.0), Cut(-w, 5.0)])
    assert rewards[0] == rewards[2] != rewards[1] == rewards[3]
    assert observations[0] != observations[1]


def test_groups_of_neighbouring_seeds_do_not_play_each_others_instances() -> None:
    env = CutVectorEnv([packing() for _ in range(4)], Direct())
    seen = [observation.variables.tobytes() for seed in range(5) for observation in env.reset(seed=seed)[0]]
    assert len(set(seen)) == len(seen) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_fixes_everything(kind: str) -> None:
    def run(seed: int) -> list[Any]:
        env = CutVectorEnv([KINDS[kind]() for _ in range(4)], SolverPool(), 2)
        rng = np.random.default_rng(0)
        return play(env, rng, seed) + play(env, rng, None)

    one, again, other = run(1), run(1), run(2)
    assert len(one) == len(again)
    for a, b in zip(one, again, strict=True):
        assert list(a[0]) == list(b[0])
        if len(a) == 5:
            np.testing.assert_array_equal(a[1], b[1])
    assert list(one[0][0]) != list(other[0][0])
    assert any(len(a) == 2 for a in one[1:]), "a second episode"
    second = next(a for a in one[1:] if len(a) == 2)
    assert list(second[0]) != list(one[0][0]), "which plays new instances"


# --- Environments that are done -------------------------------------------------------------------------------


def test_an_environment_whose_episode_is_over_waits_for_the_others() -> None:
    shops = [shop_cut() for _ in range(6)]
    env = CutVectorEnv(shops, Direct())
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    env.reset(seed=0)
    rng, waited = np.random.default_rng(0), 0
    last: Any = None
    over = np.zeros(6, dtype=bool)
    while not over.all():
        before = [shop.feasibility.checked for shop in shops]
        cuts: list[Any] = [None if over[i] else cut for i, cut in enumerate(random_cuts(env, rng))]
        observations, rewards, terminated, truncated, infos = env.step(cuts)
        assert not truncated.any()
        for i in np.flatnonzero(over):
            waited += 1
            assert observations[i] is last[i]
            assert (rewards[i], terminated[i], infos["_profit"][i]) == (0.0, True, False)
            assert shops[i].feasibility.checked == before[i]
        assert (terminated >= over).all()
        last, over = observations, terminated
    assert waited > 0
    observations, rewards, terminated, _, infos = env.step([None] * 6)
    assert (list(observations), list(rewards), terminated.all(), infos) == (list(last), [0.0] * 6, True, {})
    assert env.solutions == []
    env.reset()
    assert env.step(random_cuts(env, rng))[4] != {}


def test_before_the_first_reset_nothing_is_played() -> None:
    pool = Direct()
    env = CutVectorEnv([packing() for _ in range(2)], pool)
    with pytest.raises(ResetNeeded):
        env.step(random_cuts(env, np.random.default_rng(0)))
    assert not hasattr(pool, "calls")


# --- Plans ----------------------------------------------------------------------------------------------------


def test_checked_plans_are_counted_and_an_infeasible_one_would_be_seen() -> None:
    env = CutVectorEnv([packing() for _ in range(4)], SolverPool(), 2)
    rng = np.random.default_rng(0)
    for episode in range(1, 4):
        play(env, rng, None)
        assert (env.checked, env.infeasible) == (episode * 4 * 3, 0)
    strict = replace(packing_problem(draw_packing(rng, 6)), check=lambda plan: float(plan.sum() > 0))
    env = CutVectorEnv([CuttingPlaneEnv(strict, cuts=1, settings=EXACT) for _ in range(3)], SolverPool())
    env.reset()
    env.step([Cut(np.ones(6), 0.0), Cut(-np.ones(6), 0.0), Cut(np.ones(6), 0.0)])
    assert (env.checked, env.infeasible) == (3, 2)


magnitudes = st.one_of(
    st.floats(-3, 3), st.sampled_from([0.0, 1e-12, -1e-12, 1e12, -1e12, 1e300, -1e300, 5e-324, -5e-324])
)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(
        st.lists(st.tuples(st.lists(magnitudes, min_size=7, max_size=7), magnitudes), min_size=3, max_size=3),
        min_size=3,
        max_size=3,
    ),
    seed=st.integers(0, 9),
    normalise=st.booleans(),
)
def test_no_cut_makes_a_packing_infeasible(
    cuts: list[list[tuple[list[float], float]]], seed: int, normalise: bool
) -> None:
    own_settings = replace(EXACT, gap=1e-3, normalise=normalise)
    env = CutVectorEnv([PackingEnv(7, cuts=3, settings=own_settings) for _ in range(3)], SolverPool())
    env.reset(seed=seed)
    for step in cuts:
        env.step([Cut(np.array(w), b) for w, b in step])
        assert all(solution.status.usable for solution in env.solutions)
    assert (env.checked, env.infeasible) == (9, 0)
    for one in env.envs:
        assert one.instance.violation(one.plan) <= 1e-9  # type: ignore[attr-defined]


@settings(max_examples=8, deadline=None)
@given(w=st.lists(magnitudes, min_size=6, max_size=6), seed=st.integers(0, 9))
def test_no_cut_makes_a_schedule_infeasible(w: list[float], seed: int) -> None:
    env = CutVectorEnv([shop_cut() for _ in range(2)], SolverPool(), 2)
    env.reset(seed=seed)
    over = np.zeros(2, dtype=bool)
    while not over.all():
        over = env.step([Cut(np.array(w), 0.0), Cut(-np.array(w), 1e300)])[2]
    assert env.checked >= 4
    assert env.infeasible == 0


def test_a_solve_that_fails_costs_nobody_else_and_the_plan_stands() -> None:
    class Faulty(Direct):
        def solve(self, problems: Sequence[MixedIntegerProgram], *args: Any, **kwargs: Any) -> list[Solution]:  # type: ignore[override]
            answers: list[Solution] = super().solve(problems, *args, **kwargs)
            if len(self.calls) == 2:
                answers[1] = Solution.failed(Status.ERROR, "highs", "made to fail")
                answers[2] = replace(answers[2], x=np.ones(len(problems[2].c)))  # more than there is room for
            return answers

    envs = [PackingEnv(8, cuts=2, settings=EXACT) for _ in range(4)]
    twins = [PackingEnv(8, cuts=2, settings=EXACT) for _ in range(4)]
    env, other = CutVectorEnv(envs, Faulty()), CutVectorEnv(twins, Direct())
    env.reset(seed=0)
    other.reset(seed=0)
    cuts = [random_cuts(env, np.random.default_rng(k)) for k in range(2)]
    env.step(cuts[0])
    other.step(cuts[0])
    stood = [one.plan for one in envs]
    observations, _, over, _, infos = env.step(cuts[1])
    expected, _, _, _, _ = other.step(cuts[1])
    for i in (0, 3):
        assert observations[i] == expected[i]
    for i in (1, 2):
        np.testing.assert_array_equal(envs[i].plan, stood[i])
        assert infos["status"][i] == Status.ERROR
    assert over.all()
    assert (env.checked, env.infeasible) == (8, 0)


# --- Bad input ------------------------------------------------------------------------------------------------


def test_an_unusable_cut_is_named_before_anything_is_solved() -> None:
    pool = Direct()
    env = CutVectorEnv([PackingEnv(4, settings=EXACT) for _ in range(3)], pool)
    env.reset(seed=0)
    with pytest.raises(InvalidSetting, match=r"(?s)w: is nan at index 2.*nothing was solved"):
        env.step([np.ones(5), np.ones(5), np.array([1.0, 1.0, np.nan, 1.0, 1.0])])
    with pytest.raises(InvalidSetting, match=r"w: has shape \(5,\), expected \(4,\)"):
        env.step([Cut(np.ones(5), 0.0)] * 3)
    assert not hasattr(pool, "calls")
    env.reset()
    assert env.step([np.ones(5)] * 3)[4]["status"].tolist() == [0, 0, 0]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("group", [0, -2, 3, 8])
def test_a_group_that_does_not_divide_the_environments_is_named(group: int) -> None:
    with pytest.raises(InvalidSetting, match=rf"group: is {group} for 4 environments.*divisor"):
        CutVectorEnv([packing() for _ in range(4)], Direct(), group)


def test_an_environment_that_cannot_hand_its_masters_over_is_named() -> None:
    class Bare(gym.Env[Any, Any]):
        pass

    with pytest.raises(InvalidSetting, match=r"environment: Bare has no method `stepping`.*CuttingPlaneEnv"):
        CutVectorEnv([packing(), Bare()], Direct())  # type: ignore[list-item]


def test_wrappers_are_taken_off_and_spaces_are_those_of_the_environments() -> None:
    env = CutVectorEnv([gym.wrappers.OrderEnforcing(packing()) for _ in range(2)], Direct())
    observations, _ = env.reset(seed=0)
    assert all(isinstance(one, PackingEnv) for one in env.envs)
    assert env.observation_space.contains(observations)
    assert env.single_observation_space == env.envs[0].observation_space
    assert env.single_action_space.contains(env.single_action_space.sample())


def test_closing_closes_the_pool() -> None:
    pool = SolverPool()
    env = CutVectorEnv([packing() for _ in range(2)], pool)
    env.reset(seed=0)
    env.close()
    with pytest.raises(SolverPoolError, match="closed"):
        env.step(random_cuts(env, np.random.default_rng(0)))
