"""The job shop: aggregated and full MILP against brute force, the simulator by hand, every schedule walked."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import gymnasium as gym
import matplotlib
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs.cutting_planes import Cut, FeasibilityCount, Master, MasterSettings
from envs.cutting_planes.graph import VARIABLE_FEATURES
from envs.errors import InvalidSetting
from envs.job_shop import (
    Bar,
    JobShop,
    JobShopEnv,
    Planner,
    ShopState,
    Simulation,
    check_plan,
    check_schedule,
    count_jobs,
    draw_delays,
    draw_gantt,
    draw_job_shop,
    play,
    random_cut,
    schedule_model,
    true_profits,
)
from envs.job_shop.env import FEATURES, JOB_FEATURES, finish_probability, machine_months
from envs.job_shop.heuristic import list_schedule
from envs.job_shop.instance import DELAY_PROBABILITIES
from envs.job_shop.planning import SETTINGS
from solver_pool.backends import highs

assert envs

EXACT = MasterSettings(solver="highs", gap=0.0, time_limit=30.0)
LISTED = MasterSettings(time_limit=0.0)
"""List schedules alone, which a busy machine does not change."""


def drawn(seed: int, jobs: int, months: int = 12, copies: int = 2) -> JobShop:
    return draw_job_shop(np.random.default_rng(seed), jobs, months, copies)


def at_start(instance: JobShop) -> ShopState:
    return ShopState(
        0, np.full(instance.durations.shape, -1), np.zeros(instance.durations.shape, dtype=np.int64)
    )


def brute_force(instance: JobShop, state: ShopState, w: np.ndarray) -> float:
    """The best weight of any plan, by trying all starts of all jobs: recursion over jobs with the walk as judge."""
    jobs = len(instance)
    best = 0.0

    def extend(j: int, plan: np.ndarray, value: float) -> None:
        nonlocal best
        if j == jobs:
            best = max(best, value)
            return
        extend(j + 1, plan, value)
        left = [m for m in range(3) if state.start[j, m] == -1]
        if not left:
            return
        for months in itertools.combinations(range(state.month, instance.months), len(left)):
            tried = plan.copy()
            tried[j, left] = months
            if not check_plan(instance, state, tried):
                extend(j + 1, tried, value + w[j])

    extend(0, np.full((jobs, 3), -1), 0.0)
    return best


def test_the_generator_draws_what_it_says() -> None:
    instance = drawn(0, 3000)
    assert np.bincount(instance.durations.ravel()).tolist()[0] == 0
    np.testing.assert_allclose(np.bincount(instance.durations.ravel())[1:] / 9000, 1 / 3, atol=0.02)
    np.testing.assert_allclose(np.bincount(instance.classes) / 3000, 0.2, atol=0.03)
    delays = draw_delays(np.random.default_rng(1), instance)
    for c, p in enumerate((0.1, 0.3, 0.5, 0.7, 0.9)):
        own = delays[instance.classes == c]
        assert (own > 0).mean() == pytest.approx(p, abs=0.03)
        np.testing.assert_array_equal(instance.profits[instance.classes == c], p)
    np.testing.assert_allclose(np.bincount(delays[delays > 0])[1:] / (delays > 0).sum(), 1 / 3, atol=0.03)
    np.testing.assert_array_equal(drawn(0, 3000).durations, instance.durations)
    np.testing.assert_array_equal(draw_delays(np.random.default_rng(1), instance), delays)


# --- The MILP ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_tiny_models_against_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = JobShop(rng.integers(1, 3, (3, 3)), rng.integers(0, 5, 3), months=6, copies=1)
    w = rng.uniform(0.1, 1, 3)
    best = brute_force(instance, at_start(instance), w)
    assert best > 0
    for solver, aggregate in itertools.product(("highs", "scip"), (True, False)):
        model = schedule_model(instance, aggregate=aggregate)
        master = Master(model.program, model.cut_variables, replace(EXACT, solver=solver, normalise=False))
        master.add(Cut(w, 0.0))
        solution = master.solve()
        assert solution.phi == pytest.approx(best, abs=1e-6)
        assert check_plan(instance, at_start(instance), model.schedule(solution.plan)) == []


def test_replanning_keeps_what_was_started() -> None:
    """A state in the middle of an episode, with a job that is late, against brute force."""
    instance = JobShop(
        np.array([[1, 2, 1], [1, 1, 1], [2, 1, 1]]), np.zeros(3, dtype=int), months=8, copies=1
    )
    start = np.array([[0, 1, -1], [1, -1, -1], [-1, -1, -1]])
    end = np.array([[1, 5, 0], [2, 0, 0], [0, 0, 0]])  # operation 1 of job 0 is two months late
    state = ShopState(3, start, end)
    for w in (np.array([1.0, 1, 1]), np.array([1.0, 1, 3]), np.array([0.1, 1, 1])):
        best = brute_force(instance, state, w)
        for aggregate in (True, False):
            model = schedule_model(instance, state, aggregate=aggregate)
            master = Master(model.program, model.cut_variables, replace(EXACT, normalise=False))
            master.add(Cut(w, 0.0))
            solution = master.solve()
            schedule = model.schedule(solution.plan)
            assert solution.phi == pytest.approx(best, abs=1e-6)
            assert (schedule[start != -1] == -1).all()
            assert check_plan(instance, state, schedule) == []


@pytest.mark.parametrize("seed", range(2))
def test_aggregation_is_exact(seed: int) -> None:
    instance = drawn(seed, 14, months=9)
    rng = np.random.default_rng(seed)
    cuts = [Cut(rng.standard_normal(14), float(rng.standard_normal())) for _ in range(2)]
    full, aggregated = (schedule_model(instance, aggregate=a) for a in (False, True))
    assert len(aggregated.starts) < len(full.starts)
    for chosen in (cuts[:1], cuts, [Cut(np.ones(14), 0.0)]):
        values = []
        for model in (full, aggregated):
            master = Master(model.program, model.cut_variables, EXACT)
            for cut in chosen:
                master.add(cut)
            values.append(master.solve().phi)
        assert values[0] == pytest.approx(values[1], abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_specifications_figures_at_the_papers_size(seed: int) -> None:
    """T = 12, J = 200, M = 4: at most 30 jobs are finished without delays."""
    instance = drawn(seed, 200, copies=4)
    model = schedule_model(instance)
    assert (len(model.groups), len(model.program.c), model.program.A.shape[0]) == (27, 767, 489)
    master = Master(model.program, model.cut_variables, EXACT)
    master.add(count_jobs(instance)[0])
    solution = master.solve()
    assert (solution.phi, solution.gap) == (pytest.approx(30.0), pytest.approx(0.0, abs=1e-6))
    assert check_plan(instance, at_start(instance), model.schedule(solution.plan)) == []


def test_schedules_and_plans_are_inverse_and_serve_by_priority() -> None:
    instance = JobShop(np.ones((4, 3), dtype=int), np.arange(4), months=6, copies=1)
    model = schedule_model(instance)
    schedule = np.full((4, 3), -1)
    schedule[1], schedule[3] = [0, 1, 3], [1, 2, 4]
    plan = model.plan(schedule)
    np.testing.assert_array_equal(model.schedule(plan), schedule)
    swapped = model.schedule(plan, priority=np.array([0.0, 1, 2, 3]))
    np.testing.assert_array_equal(swapped[[3, 1]], schedule[[1, 3]])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 200), jobs=st.integers(1, 25), copies=st.integers(1, 3))
def test_list_schedules_are_feasible_and_no_better_than_possible(seed: int, jobs: int, copies: int) -> None:
    rng = np.random.default_rng(seed)
    instance = drawn(seed, jobs, copies=copies)
    cuts = [Cut(rng.standard_normal(jobs), float(rng.standard_normal())) for _ in range(2)]
    schedule = list_schedule(instance, at_start(instance), cuts, rng, exchanges=50)
    assert check_plan(instance, at_start(instance), schedule) == []
    model = schedule_model(instance)
    master = Master(model.program, model.cut_variables, replace(SETTINGS, normalise=False))
    for cut in cuts:
        master.add(cut)
    before = master._value(master.plan)
    master.suggest(model.plan(schedule))
    chosen = (schedule != -1).any(axis=1).astype(float)
    expected = min(cut.value(chosen) for cut in cuts)
    assert master._value(master.plan) == pytest.approx(max(before, expected))
    assert expected >= before - 1e-12, "an empty plan is always possible"


def test_a_list_schedule_is_close_to_the_optimum() -> None:
    instance = drawn(0, 60)
    w = np.random.default_rng(1).uniform(size=60)
    schedule = list_schedule(instance, at_start(instance), [Cut(w, 0.0)], np.random.default_rng(0))
    model = schedule_model(instance)
    master = Master(
        model.program, model.cut_variables, MasterSettings(solver="highs", gap=0.05, normalise=False)
    )
    master.add(Cut(w, 0.0))
    reached = w[(schedule != -1).any(axis=1)].sum()
    assert reached >= 0.85 * master.solve().phi


# --- The simulator ----------------------------------------------------------------------------------------------


def test_an_episode_by_hand() -> None:
    """Two jobs, one machine of each type. Operation 0 of job 0 is two months late, operation 1 of job 1 one."""
    instance = JobShop(np.array([[1, 1, 1], [1, 2, 1]]), np.array([4, 1]), months=9, copies=1)
    delays = np.array([[2, 0, 0], [0, 1, 0]])
    simulation = Simulation(instance, delays)
    simulation.run(np.array([[0, 1, 2], [1, 2, 4]]))
    state = simulation.state()
    assert (state.month, simulation.over) == (1, False)
    np.testing.assert_array_equal(state.end, [[3, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(state.stage, [1, 0])
    np.testing.assert_array_equal(state.ready, [3, 1])
    # The machine is taken until 3: the plan made before the delay would double-book it.
    assert "2 machines of type 0 are used in month 1" in check_plan(
        instance, state, np.array([[-1] * 3, [1, 2, 4]])
    )
    simulation.run(np.array([[-1, 3, 4], [3, 4, 6]]))
    assert simulation.month == 6, "operation 1 of job 1 should have ended in 6"
    np.testing.assert_array_equal(simulation.state().end, [[3, 4, 5], [4, 7, 0]])
    np.testing.assert_array_equal(simulation.finished(), [0])
    assert simulation.profit() == 0.9
    simulation.run(np.array([[-1] * 3, [-1, -1, 7]]))
    assert simulation.over
    assert simulation.profit() == pytest.approx(0.9 + 0.3)
    assert check_schedule(instance, *simulation.realised()) == []
    assert simulation.gantt() == [
        Bar(0, 0, 0, 0, 3, True), Bar(0, 0, 1, 3, 4, False), Bar(1, 0, 0, 3, 4, False),
        Bar(1, 0, 1, 4, 7, True), Bar(2, 0, 0, 4, 5, False), Bar(2, 0, 1, 7, 8, False),
    ]  # fmt: skip


def test_a_job_that_ends_too_late_pays_nothing() -> None:
    instance = JobShop(np.array([[1, 1, 1]]), np.array([4]), months=3, copies=1)
    plan = np.array([[0, 1, 2]])
    for delays, profit in ((np.zeros((1, 3), dtype=int), 0.9), (np.array([[0, 0, 1]]), 0.0)):
        simulation = Simulation(instance, delays)
        simulation.run(plan)
        assert simulation.over
        assert simulation.profit() == profit


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ([[0, 0, 2]], [[1, 2, 3]], "operation 1 of job 0 starts in 0, its predecessor ends in 1"),
        ([[0, 1, 2]], [[1, 1, 3]], "operation 1 of job 0 takes 0 months"),
        ([[0, -1, 2]], [[1, 0, 3]], "job 0 skips operation 1"),
        ([[-1, 1, -1]], [[0, 2, 0]], "job 0 skips operation 0"),
        ([[3, 4, 5]], [[4, 5, 6]], "operation 1 of job 0 starts beyond the horizon"),
    ],
)
def test_the_walk_sees_what_is_wrong(start: Any, end: Any, message: str) -> None:
    instance = JobShop(np.ones((1, 3), dtype=int), np.zeros(1, dtype=int), months=4, copies=1)
    assert message in check_schedule(instance, np.array(start), np.array(end))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([[-1, 1, 2]], "operation 1 of job 0 is planned for 1, in the past or again"),
        ([[2, 2, 3]], "operation 0 of job 0 is planned for 2, in the past or again"),
        ([[-1, 2, -1]], "job 0 is planned without its last operation"),
        ([[-1, 3, 4]], "operation 2 of job 0 is planned to end in 5"),
    ],
)
def test_the_walk_sees_what_is_wrong_with_a_plan(plan: Any, message: str) -> None:
    instance = JobShop(np.ones((1, 3), dtype=int), np.zeros(1, dtype=int), months=4, copies=1)
    state = ShopState(2, np.array([[0, -1, -1]]), np.array([[1, 0, 0]]))
    assert message in check_plan(instance, state, np.array(plan))
    assert check_plan(instance, state, np.array([[-1, 2, 3]])) == []


# --- Episodes ---------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    exponents=st.lists(st.integers(-12, 12), min_size=13, max_size=13),
    replan=st.sampled_from(["reuse", "cut"]),
    cuts=st.integers(1, 2),
)
def test_no_cut_makes_a_schedule_infeasible(seed: int, exponents: list[int], replan: Any, cuts: int) -> None:
    env = JobShopEnv(12, months=9, copies=1, cuts=cuts, replan=replan)
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    over, profit = False, 0.0
    while not over:
        action = rng.standard_normal(13) * 10.0 ** np.array(exponents)
        observation, reward, over, _, info = env.step(action)
        assert env.observation_space.contains(observation)
        profit += reward
    assert (info["infeasible_plans"], env.feasibility.infeasible) == (0, 0)
    assert env.feasibility.checked == info["solves"] + 1, "every plan, and the schedule that was executed"
    simulation = env.planner.simulation
    start, end = simulation.realised()
    assert check_schedule(env.planner.instance, start, end) == []
    done = (start[:, 2] != -1) & (end[:, 2] <= 9)
    assert profit == pytest.approx(env.planner.instance.profits[done].sum()) == pytest.approx(info["profit"])


def test_baselines_play_the_same_luck() -> None:
    count, rng = FeasibilityCount(), np.random.default_rng(0)
    instance = drawn(4, 30)
    delays = draw_delays(rng, instance)
    everything = [
        play(instance, delays, cuts, LISTED, count)
        for cuts in (count_jobs(instance), true_profits(instance), random_cut(instance, rng))
    ]
    assert count.infeasible == 0
    assert count.checked == sum(o.solves for o in everything) + 3
    again = play(instance, delays, lambda planner: count_jobs(planner.instance), LISTED)
    assert again.profit == everything[0].profit
    on_time = play(instance, np.zeros_like(delays), true_profits(instance), LISTED)
    assert on_time.solves == 1, "nothing to replan"
    assert on_time.profit >= max(o.profit for o in everything)
    for outcome in everything:
        for bar in outcome.simulation.gantt():
            nominal = instance.durations[bar.job, bar.machine]
            assert bar.end - bar.start == nominal + delays[bar.job, bar.machine]
            assert bar.delayed == (bar.end - bar.start > nominal)
            assert 0 <= bar.copy < instance.copies


def test_a_plan_in_two_halves_is_a_plan() -> None:
    instance = drawn(5, 20)
    delays = draw_delays(np.random.default_rng(0), instance)
    whole, halves = Planner(instance, delays, EXACT), Planner(instance, delays, EXACT)
    for planner in (whole, halves):
        planner.master.add(count_jobs(instance)[0])
    step = halves.planning()
    master = next(step)
    with pytest.raises(StopIteration) as end:
        step.send(master.accept(highs.solve(master.with_cuts(), EXACT.options)))
    np.testing.assert_array_equal(whole.plan(), end.value.value)
    assert halves.solves == halves.feasibility.checked == 1
    assert halves.feasibility.infeasible == 0


def test_no_machine_is_double_booked_in_the_gantt_chart() -> None:
    instance = drawn(2, 40, copies=2)
    outcome = play(instance, draw_delays(np.random.default_rng(3), instance), count_jobs(instance))
    bars = outcome.simulation.gantt()
    assert len(bars) > 15
    for one, other in itertools.pairwise(bars):
        if one[:2] == other[:2]:
            assert one.end <= other.start
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    draw_gantt(bars, instance, axes)
    assert len(axes.patches) == len(bars)
    assert sum(patch.get_hatch() is not None for patch in axes.patches) == sum(bar.delayed for bar in bars)
    plt.close(figure)


def test_reused_cuts_are_the_same_cuts_given_again() -> None:
    patient = replace(SETTINGS, time_limit=60.0)  # a busy machine must not decide
    reuse = JobShopEnv(15, copies=1, settings=patient)
    again = JobShopEnv(15, copies=1, replan="cut", settings=patient)
    reuse.reset(seed=9)
    again.reset(seed=9)
    action = np.append(np.random.default_rng(0).uniform(size=15), 0.0)
    *_, over, _, info = reuse.step(action)
    assert over
    steps, done = 0, False
    while not done:
        _, _, done, _, last = again.step(action)
        steps += 1
    assert last["profit"] == info["profit"]
    assert (steps, last["solves"]) == (info["solves"], info["solves"])
    with pytest.raises(ResetNeeded):
        reuse.step(action)


def test_the_observation_shows_jobs_and_starts_but_no_profits() -> None:
    env = JobShopEnv(10, copies=1, replan="cut")
    graph, _ = env.reset(seed=3)
    assert env.observation_space.contains(graph)
    np.testing.assert_array_equal(graph.cut_variables, np.arange(10))
    own = graph.variables[:, len(VARIABLE_FEATURES) :]
    assert own.shape[1] == len(FEATURES)
    instance = env.planner.instance
    np.testing.assert_allclose(own[:10, 1:4] * 3, instance.durations, rtol=1e-6)
    np.testing.assert_allclose(own[:10, 7], instance.delay_probability, rtol=1e-6)
    assert (own[10:, : len(JOB_FEATURES)] == 0).all()
    assert (own[10:, len(JOB_FEATURES)] == 1).all()
    months = set(env.planner.model.starts.month.tolist())
    np.testing.assert_allclose(sorted(set((own[10:, -3] * 12).round(4).tolist())), sorted(months))
    later, *_, info = env.step(np.append(np.ones(10), 0.0))
    assert info["month"] > 0
    np.testing.assert_allclose(later.variables[:, -1], info["month"] / 12, rtol=1e-6)
    stages = env.planner.state.stage
    assert stages.max() > 0
    np.testing.assert_allclose(later.variables[:10, len(VARIABLE_FEATURES) + 4], (3 - stages) / 3, rtol=1e-6)


def test_the_jobs_alone_are_observed_under_rows_that_the_master_implies() -> None:
    env = JobShopEnv(30, copies=1, replan="cut", observe="jobs", settings=EXACT)
    graph, _ = env.reset(seed=5)
    over, rng = False, np.random.default_rng(0)
    while not over:
        assert env.observation_space.contains(graph)
        assert graph.variables.shape[0] == 30
        assert graph.constraints.shape[0] == 3
        # Networks see numbers near one to the last month, where rows may have nothing left in them.
        assert np.abs(graph.variables).max() <= 3.0
        assert np.abs(graph.constraints).max() <= 1.0
        rows, planner = machine_months(env.planner), env.planner
        before = planner.simulation.state()
        step = env.stepping(np.append(rng.standard_normal(30), 0.0))
        master = next(step)
        plan = master.solve().plan[:30]  # any plan of the master's satisfies them
        assert (rows.A @ plan <= rows.row_high + 1e-9).all()
        ahead = np.arange(3) >= before.stage[:, None]
        work = (planner.instance.durations * ahead).sum(axis=1)
        own = graph.variables[:, len(VARIABLE_FEATURES) :]
        at = {name: own[:, FEATURES.index(name)] for name in ("work_left", "slack", "open_delays")}
        np.testing.assert_allclose(at["work_left"] * 12, work, rtol=1e-6)
        np.testing.assert_allclose(at["slack"] * 12, 12 - before.ready - work, atol=1e-5)
        running = (before.start >= 0) & (before.end > before.month)
        delayed = before.end - before.start > planner.instance.durations
        np.testing.assert_allclose(
            at["open_delays"] * 3, (ahead | (running & ~delayed)).sum(axis=1), rtol=1e-6
        )
        rate, stage, copies = own[:, FEATURES.index("risk_rate")], before.stage, planner.instance.copies
        higher = [(rate[stage == stage[j]] > rate[j] + 1e-7).sum() / copies for j in range(30)]
        np.testing.assert_allclose(own[:, FEATURES.index("ahead")] * 3, np.minimum(higher, 3.0), rtol=1e-6)
        with pytest.raises(StopIteration) as end:
            step.send(master.solve())
        graph, _, over, _, _ = end.value.value


def test_the_probability_of_finishing_is_that_of_all_delays_together() -> None:
    for c, p in enumerate(DELAY_PROBABILITIES):
        chance = {0: 1.0 - p, 1: p / 3, 2: p / 3, 3: p / 3}
        for n in range(4):
            for slack in range(-1, 11):
                every = itertools.product(chance, repeat=n)
                exact = sum(float(np.prod([chance[d] for d in ds])) for ds in every if sum(ds) <= slack)
                found = finish_probability(np.array([c]), np.array([n]), np.array([slack]))
                assert found[0] == pytest.approx(exact, abs=1e-12)


def test_a_list_schedule_that_places_every_job_keeps_the_order_of_its_weights() -> None:
    """Exchanges could not gain, and would let the jobs start in any order."""
    instance = JobShop(np.ones((6, 3), dtype=np.int64), np.zeros(6, dtype=np.int64), months=12, copies=1)
    w = np.array([1.0, 6.0, 2.0, 5.0, 3.0, 4.0])
    starts = list_schedule(instance, at_start(instance), [Cut(w, 0.0)], np.random.default_rng(0))
    assert np.argsort(starts[:, 0]).tolist() == np.argsort(-w).tolist()


def test_gymnasium_accepts_the_registered_environment() -> None:
    env = gym.make("solverl/JobShop-v0", jobs=6, months=8, copies=1)
    check_env(env.unwrapped, skip_render_check=True)


def test_a_seed_fixes_instances_and_delays() -> None:
    one, two = JobShopEnv(8), JobShopEnv(8)
    assert one.reset(seed=3)[0] == two.reset(seed=3)[0]
    assert one.reset()[0] == two.reset()[0]
    action = np.append(np.ones(8), 0.0)
    assert one.step(action)[1] == two.step(action)[1]
    given_luck = {"instance": drawn(1, 8), "delays": np.zeros((8, 3), dtype=int)}
    one.reset(options=given_luck)
    assert (
        one.step(action)[4]["profit"] == play(*given_luck.values(), count_jobs(given_luck["instance"])).profit
    )


def test_a_planner_without_anything_to_plan_goes_on() -> None:
    """Where no job can be finished any more there is nothing to decide, and the episode ends by itself."""
    instance = JobShop(np.ones((1, 3), dtype=int), np.array([4]), months=3, copies=1)
    planner = Planner(instance, np.array([[2, 0, 0]]))
    planner.master.add(np.ones(2))
    planner.plan()
    assert planner.execute()
    assert planner.solves == 1
    assert planner.simulation.profit() == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JobShopEnv(0), "jobs: is 0"),
        (lambda: JobShopEnv(5, copies=0), "months: or copies are 12, 0"),
        (lambda: JobShopEnv(5, cuts=0), "cuts: is 0"),
        (lambda: JobShopEnv(5, replan="never"), "replan: is 'never'"),  # type: ignore[arg-type]
        (
            lambda: JobShop(np.ones((2, 2), dtype=int), np.zeros(2, dtype=int)),
            r"durations: have shape \(2, 2\)",
        ),
        (lambda: JobShop(np.ones((2, 3)), np.zeros(2, dtype=int)), "durations: have shape .*whole"),
        (lambda: JobShop(np.zeros((2, 3), dtype=int), np.zeros(2, dtype=int)), "durations: .*1 or more"),
        (lambda: JobShop(np.ones((2, 3), dtype=int), np.array([0, 5])), "classes: have shape"),
    ],
)
def test_an_unusable_setting_is_named(make: Any, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        make()


def test_an_unusable_cut_changes_nothing() -> None:
    env = JobShopEnv(6, months=8, copies=1)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(7))
    env.reset(seed=0)
    with pytest.raises(InvalidSetting, match="w: is nan at index 2"):
        env.step(np.array([0, 0, np.nan, 0, 0, 0, 0]))
    assert env.planner.master.cuts == []
    assert env.step(np.ones(7))[2]
