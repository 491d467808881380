"""Optimistic planning for unknown constrained MDPs, against enumeration, simulation, linear programs and coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from algorithms.baselines.tabular_lagrangian.agent import LagrangianAgent, LagrangianSettings
from algorithms.crl import sample_sizes
from algorithms.crl.agent import AgentSettings, OptimisticAgent
from algorithms.crl.confidence import RADII, Ball, RadiusKind, ball
from algorithms.crl.evaluation import (
    evaluate,
    occupancy,
    policy_of,
    uniform_policy,
    values,
    variances,
)
from algorithms.crl.fast_planner import ExtendedIteration, optimal_mixture, plan_cheapest, plan_fast
from algorithms.crl.kept_model import KeptModel
from algorithms.crl.linear_programs import extended_program, plan_extended, plan_known, program_size
from algorithms.crl.plan import Plan
from algorithms.crl.planner import Planner
from algorithms.crl.policy import TabularPolicy, drawn
from envs.errors import InvalidSetting
from envs.tabular import SCENARIOS, Array, ConstrainedMDP, Task, action_budget, grid_world
from solver_pool.pool import SolverPool

OPTIMA = {
    ("1a", "goal"): (3.23193, 2.0), ("1a", "arrival"): (0.66624, 2.0), ("1a", "author"): (4.22610, 2.0),
    ("1b", "goal"): (4.67197, 3.0), ("1b", "arrival"): (0.66647, 3.0),
    ("2", "goal"): (4.03516, 0.0), ("2", "arrival"): (0.98034, 0.0), ("2", "author"): (5.50566, 0.0),
}  # fmt: skip
"""Specification online_crl, section 8: value and cost of the optimal policies."""


def random_problem(seed: int, states: int = 3, actions: int = 2, constraints: int = 1, horizon: int = 3,
                   tight: float = 1.0) -> ConstrainedMDP:  # fmt: skip
    """With the budgets that a random policy spends, times `tight`: feasible for `tight` of at least 1."""
    rng = np.random.default_rng(seed)
    kernel = rng.dirichlet(np.full(states, 0.5), size=(states, actions))
    rewards, costs = rng.random((states, actions)), rng.random((constraints, states, actions))
    policy = rng.dirichlet(np.ones(actions), size=(horizon, states))
    loose = ConstrainedMDP(Task(rewards, costs, np.full(constraints, float(horizon)), horizon), kernel)
    return ConstrainedMDP(Task(rewards, costs, tight * evaluate(loose, policy).costs, horizon), kernel)


def tight_problem(slack: float) -> ConstrainedMDP:
    """One constraint whose budget is the least possible cost times ``1 + slack``."""
    loose = random_problem(7, 4, 2, 1, 5)
    least = plan_cheapest(loose.task, Ball.point(loose.kernel)).costs
    task = Task(loose.task.rewards, loose.task.costs, least * (1 + slack), 5)
    return ConstrainedMDP(task, loose.kernel)


def by_enumeration(problem: ConstrainedMDP) -> float:
    """Best mixture of two deterministic policies, of all of them, that keeps the one budget."""
    (states, actions), horizon = problem.task.shape, problem.task.horizon
    found = []
    for choice in itertools.product(range(actions), repeat=horizon * states):
        policy = np.eye(actions)[np.reshape(choice, (horizon, states))]
        worth = evaluate(problem, policy)
        found.append((worth.value, worth.costs[0]))
    budget, best = problem.task.budgets[0], -math.inf
    for (v, c), (w, d) in itertools.product(set(found), repeat=2):
        if c <= budget:
            best = max(best, v)
            if d > budget:
                share = (budget - c) / (d - c)
                best = max(best, (1 - share) * v + share * w)
    return best


def naive(task: Task, around: Ball) -> float | None:
    """The extended program in ``z`` alone, every confidence row written, by scipy: the value, or None."""
    (states, actions), horizon = task.shape, task.horizon
    shape = (horizon, states, actions, states)
    upper, sides, equal, masses = [], [], [], []
    for i in range(task.constraints):
        upper.append(np.broadcast_to(task.costs[i][None, :, :, None], shape).ravel())
        sides.append(task.budgets[i])
    for h in range(horizon):
        for s in range(states):
            row = np.zeros(shape)
            row[h, s] = 1.0
            if h:
                row[h - 1, :, :, s] -= 1.0
            equal.append(row.ravel())
            masses.append(float(h == 0 and s == task.start))
    for h, s, a, t in np.ndindex(*shape):
        for sign, bound in ((1.0, around.centre + around.radius), (-1.0, around.centre - around.radius)):
            row = np.zeros(shape)
            row[h, s, a] = -sign * bound[s, a, t]
            row[h, s, a, t] += sign
            upper.append(row.ravel())
            sides.append(0.0)
    answer = linprog(
        -np.broadcast_to(task.rewards[None, :, :, None], shape).ravel(),
        np.array(upper), sides, np.array(equal), masses, method="highs",
    )  # fmt: skip
    return -float(answer.fun) if answer.success else None


@pytest.fixture(scope="module")
def pool() -> SolverPool:
    return SolverPool()


def assert_is_plan(plan: Plan, task: Task) -> None:
    assert plan.policy.shape == (task.horizon, *task.shape)
    assert (plan.policy >= 0).all()
    np.testing.assert_allclose(plan.policy.sum(axis=2), 1.0, atol=1e-12)
    np.testing.assert_allclose(plan.occupation.sum(axis=(1, 2)), 1.0, atol=1e-6)
    assert task.violation(plan.costs) <= 1e-6


# --- Evaluation -----------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_values_and_occupancy_agree(seed: int) -> None:
    problem = random_problem(seed, 4, 3, 2, 5)
    task, rng = problem.task, np.random.default_rng(seed)
    policy = rng.dirichlet(np.ones(3), size=(5, 4))
    worth = evaluate(problem, policy)
    assert worth.value == pytest.approx(values(problem.kernel, task.rewards, policy)[0, task.start])
    for i in range(2):
        assert worth.costs[i] == pytest.approx(values(problem.kernel, task.costs[i], policy)[0, 0])
    found = occupancy(problem.kernel, policy, task.start)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), 1.0)
    reached = found.sum(axis=2) > 1e-9
    np.testing.assert_allclose(policy_of(found)[reached], policy[reached], atol=1e-6)
    changing = np.broadcast_to(problem.kernel, (5, *problem.kernel.shape))
    np.testing.assert_allclose(
        values(changing, task.rewards, policy), values(problem.kernel, task.rewards, policy)
    )


def test_evaluation_by_simulation() -> None:
    problem = grid_world("1a")
    task, rng = problem.task, np.random.default_rng(0)
    policy = rng.dirichlet(np.ones(4), size=(10, 9))
    sums = []
    for _ in range(4_000):
        states, actions = problem.rollout(rng, policy)
        sums.append([task.rewards[states[:-1], actions].sum(), task.costs[0, states[:-1], actions].sum()])
    error = np.std(sums, axis=0) / math.sqrt(len(sums))
    worth = evaluate(problem, policy)
    assert (np.abs(np.mean(sums, axis=0) - [worth.value, worth.costs[0]]) < 4 * error).all()


def test_total_variance_is_that_of_the_return() -> None:
    """Lemma 11: the variance of the return is the expected sum of the local variances, for certain rewards."""
    problem = random_problem(3, 3, 2, 1, 4)
    rng = np.random.default_rng(0)
    policy = np.eye(2)[rng.integers(2, size=(4, 3))]
    value = values(problem.kernel, problem.task.rewards, policy)
    local = (occupancy(problem.kernel, policy, 0) * variances(problem.kernel, value)).sum()
    returns = []
    for _ in range(8_000):
        states, actions = problem.rollout(rng, policy)
        returns.append(problem.task.rewards[states[:-1], actions].sum())
    assert np.var(returns) == pytest.approx(local, rel=0.08)
    assert local <= 4**2 / 4


# --- A known model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_occupancy_program_against_enumeration(seed: int, pool: SolverPool) -> None:
    problem = random_problem(seed, 2, 2, 1, 3, tight=0.9)
    best = by_enumeration(problem)
    plan = plan_known(problem, pool)
    if plan is None:
        assert best == -math.inf
        return
    assert_is_plan(plan, problem.task)
    assert plan.value == pytest.approx(best, abs=1e-7)
    worth = evaluate(problem, plan.policy)
    assert worth.value == pytest.approx(best, abs=1e-6)
    assert worth.costs[0] <= problem.task.budgets[0] + 1e-6


@pytest.mark.parametrize(("scenario", "reward"), OPTIMA)
def test_optima_of_the_grid_worlds(scenario: str, reward: str, pool: SolverPool) -> None:
    problem = grid_world(scenario, reward)  # type: ignore[arg-type]
    for plan in (plan_known(problem, pool), plan_fast(problem.task, Ball.point(problem.kernel))):
        assert plan is not None
        assert (plan.value, plan.costs[0]) == pytest.approx(OPTIMA[scenario, reward], abs=6e-6)
        worth = evaluate(problem, plan.policy)
        assert (worth.value, worth.costs[0]) == pytest.approx(OPTIMA[scenario, reward], abs=6e-6)


def test_an_infeasible_model(pool: SolverPool) -> None:
    problem = tight_problem(-0.05)
    assert plan_known(problem, pool) is None
    assert plan_fast(problem.task, Ball.point(problem.kernel)) is None
    cheapest = plan_cheapest(problem.task, Ball.point(problem.kernel))
    least = plan_fast(
        Task(-problem.task.costs[0], np.zeros((0, 4, 2)), np.zeros(0), 5), Ball.point(problem.kernel)
    )
    assert least is not None
    assert cheapest.costs[0] == pytest.approx(-least.value)
    assert cheapest.costs[0] > problem.task.budgets[0]


# --- The extended program -------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(0, 3), st.sampled_from(RADII), st.sampled_from([0.8, 1.0, 1.05]))
@settings(max_examples=25, deadline=None)
def test_all_engines_and_the_naive_program_agree(
    seed: int, constraints: int, kind: RadiusKind, tight: float
) -> None:
    """The fast planner, the kept model, the solver pool, and scipy on the program in z alone."""
    problem = random_problem(seed, 3, 2, constraints, 3, tight)
    rng = np.random.default_rng(seed)
    around = ball(problem.draw_counts(rng, int(rng.integers(0, 60))), kind, 0.1)
    reference = naive(problem.task, around)
    plans = [
        plan_fast(problem.task, around),
        KeptModel(problem.task).plan(around),
        plan_extended(problem.task, around, SolverPool()),
    ]
    for plan in plans:
        assert (plan is None) == (reference is None)
        if plan is not None:
            assert_is_plan(plan, problem.task)
            assert plan.value == pytest.approx(reference, abs=2e-6)


@pytest.mark.parametrize("scenario", ["1a", "2"])
def test_the_kept_model_follows_the_counts(scenario: str, pool: SolverPool) -> None:
    """Its answers stay those of a new program, with fewer iterations."""
    problem, rng = grid_world(scenario), np.random.default_rng(0)  # type: ignore[arg-type]
    agent = OptimisticAgent(problem.task, AgentSettings("author"))
    agent.count_samples(problem.draw_counts(rng, 10))
    kept, iterations, anew = KeptModel(problem.task), 0, 0
    for _ in range(4):
        fast = plan_fast(problem.task, agent.ball)
        warm, cold = kept.plan(agent.ball), plan_extended(problem.task, agent.ball, pool)
        assert fast is not None
        assert warm is not None
        assert cold is not None
        assert warm.value == pytest.approx(fast.value, abs=1e-6)
        assert cold.value == pytest.approx(fast.value, abs=1e-6)
        assert_is_plan(warm, problem.task)
        iterations, anew = warm.solves, cold.solves
        agent.count(*problem.rollout(rng, fast.policy))
    assert iterations < 0.5 * anew


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_zero_radius_is_the_occupancy_program(scenario: str, pool: SolverPool) -> None:
    problem = grid_world(scenario)
    known = plan_known(problem, pool)
    extended = plan_extended(problem.task, Ball.point(problem.kernel), pool)
    assert known is not None
    assert extended is not None
    assert extended.value == pytest.approx(known.value, abs=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_the_optimistic_kernel_explains_the_plan(seed: int, constraints: int) -> None:
    """It lies in the ball, is a kernel, and in it the policy is worth and costs what the plan says."""
    problem = random_problem(seed, 4, 3, constraints, 5)
    around = ball(problem.draw_counts(np.random.default_rng(seed), 30), "author")
    iteration = ExtendedIteration(problem.task, around)
    mixture = optimal_mixture(iteration)
    if mixture is None:
        return
    plan, kernel = iteration.plan(mixture, 0.0), iteration.kernel(mixture)
    assert (np.abs(kernel - around.centre) <= around.radius + 1e-9).all()
    np.testing.assert_allclose(kernel.sum(axis=3), 1.0, atol=1e-9)
    assert values(kernel, problem.task.rewards, plan.policy)[0, 0] == pytest.approx(plan.value, abs=1e-5)
    for cost, wanted in zip(problem.task.costs, plan.costs, strict=True):
        assert values(kernel, cost, plan.policy)[0, 0] == pytest.approx(wanted, abs=1e-5)


@given(st.integers(0, 10_000), st.integers(1, 200), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_optimism(seed: int, samples: int, constraints: int) -> None:
    """Where the true model is in the ball, the plan promises at least the true optimum."""
    problem = random_problem(seed, 4, 2, constraints, 4)
    around = ball(problem.draw_counts(np.random.default_rng(seed), samples), "mp", 0.01)
    best = plan_fast(problem.task, Ball.point(problem.kernel))
    plan = plan_fast(problem.task, around)
    if not around.contains(problem.kernel):
        return
    assert best is not None
    assert plan is not None
    assert plan.value >= best.value - 1e-9


def test_a_binding_budget_is_spent() -> None:
    problem = grid_world("1a")
    for samples in (30, 100, 1_000):
        around = ball(problem.draw_counts(np.random.default_rng(samples), samples), "author")
        plan = plan_fast(problem.task, around)
        assert plan is not None
        free = plan_fast(Task(problem.task.rewards, np.zeros((0, 9, 4)), np.zeros(0), 10), around)
        assert free is not None
        assert plan.costs[0] <= 2.0 + 1e-9
        if free.value > plan.value + 1e-6:
            assert plan.costs[0] == pytest.approx(2.0)


def test_sizes_of_programs() -> None:
    """The table of the specification: columns, and rows and non-zeros once redundant rows are left out."""
    task = grid_world("1a").task
    assert program_size(task)[0] == 3_600
    full = extended_program(task, Ball(np.full((9, 4, 9), 1 / 9), np.full((9, 4, 9), 0.05)))
    columns, rows, nonzeros = program_size(task)
    assert full.A.shape == (rows, columns)
    assert full.A.nnz == nonzeros
    problem = grid_world("1a")
    less = extended_program(task, ball(problem.draw_counts(np.random.default_rng(0), 30), "author"))
    assert less.A.shape[0] < 0.65 * rows
    assert program_size(action_budget(5, 20, 4.0).task)[0] == 52_000


def test_planners_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.tabular import memory

    task = grid_world("1b").task
    monkeypatch.setattr(memory, "available", lambda: 10_000_000)
    with pytest.raises(InvalidSetting, match=r"16,320 columns.*Use engine='fast'"):
        Planner(task, "kept")
    assert Planner(task, "fast").plan(Ball.everything(16, 4)) is not None
    with pytest.raises(InvalidSetting, match="engine: is 'slow'"):
        Planner(task, "slow")  # type: ignore[arg-type]


# --- Balls ----------------------------------------------------------------------------------------------------


def test_radii_are_their_formulas() -> None:
    counts = np.array([[[30, 10, 0]]])
    p, n = np.array([0.75, 0.25, 0.0]), 40
    v, log4, log8 = p * (1 - p), math.log(4 / 0.1), math.log(8 / 0.1)
    hoeffding = math.sqrt(log4 / 80)
    expected = {
        "mp": np.minimum(np.sqrt(2 * v * log8 / 39) + 7 * log8 / 117, hoeffding),
        "paper": np.minimum(np.sqrt(2 * v * log4 / n) + 2 * log4 / 120, hoeffding),
        "author": np.minimum(np.sqrt(v / n) + 1 / n, 1 / math.sqrt(n)),
        "none": np.zeros(3),
    }
    for kind in RADII:
        around = ball(counts, kind, 0.1)
        np.testing.assert_allclose(around.radius[0, 0], expected[kind])
        np.testing.assert_allclose(around.centre[0, 0], p)
    for n, radius in ((0, 1.0), (1, 1.0)):
        around = ball(np.array([[[n, 0, 0]]]), "mp", 0.1)
        np.testing.assert_allclose(around.radius, radius)
    np.testing.assert_allclose(ball(np.zeros((1, 1, 3), dtype=np.int64), "mp").centre, 1 / 3)
    with pytest.raises(InvalidSetting, match="radius: is 'wide'"):
        ball(counts, "wide")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match=r"failure: is 1\.5"):
        ball(counts, "mp", 1.5)


@pytest.mark.parametrize("samples", [5, 40, 400])
def test_the_true_model_lies_in_the_ball(samples: int) -> None:
    """1,000 draws with delta = 0.2; the radius of the published curves, tried the same way, misses it."""
    problem, rng = random_problem(1, 4, 3), np.random.default_rng(0)
    delta, draws = 0.2, 1_000
    inside = {"mp": 0, "author": 0}
    for _ in range(draws):
        counts = problem.draw_counts(rng, samples)
        for kind in inside:
            around = ball(counts, kind, sample_sizes.failure_for_generative(problem.task, delta))  # type: ignore[arg-type]
            inside[kind] += around.contains(problem.kernel)
    assert inside["mp"] >= (1 - delta) * draws
    assert inside["author"] < 0.2 * draws


# --- Sample sizes ---------------------------------------------------------------------------------------------


def test_sample_sizes_are_those_of_the_specification() -> None:
    task = grid_world("1a").task
    assert sample_sizes.gmbl_samples(task, 1.0, 0.05) == pytest.approx(3.1e6, rel=0.02)
    assert sample_sizes.gmbl_samples(task, 0.1, 0.05) == pytest.approx(3.1e8, rel=0.02)
    assert sample_sizes.least_weight(task, 0.1) == pytest.approx(0.1 / (4 * 10 * 9))
    assert sample_sizes.online_known(task, 0.1, 0.05) == 1024 * 9 * 100 * 100
    assert sample_sizes.online_cap(task, 0.1, 0.05) == 9 * 10 * 1024 * 9 * 100 * 100
    assert sample_sizes.online_episodes(task, 0.1, 0.05) > 6 * 9 * 4 * 1024 * 9 * 100 * 100
    assert 0 < sample_sizes.failure_for_online(task, 0.1, 0.05) < 1e-9


@given(st.floats(0.05, 3.0), st.floats(0.001, 0.5))
@settings(max_examples=50, deadline=None)
def test_the_bound_and_its_sample_size(epsilon: float, delta: float) -> None:
    task = grid_world("1a").task
    n = sample_sizes.gmbl_samples(task, epsilon, delta)
    assert sample_sizes.gmbl_error(task, n, delta) <= epsilon * (1 + 1e-9)
    assert sample_sizes.gmbl_error(task, 4 * n, delta) < 0.6 * sample_sizes.gmbl_error(task, n, delta)
    assert sample_sizes.gmbl_error(task, 1, delta) == math.inf


def test_the_bound_holds_with_room() -> None:
    """At the theorem's sample size for epsilon = 1, the plan's true value and cost are within it of the optimum."""
    problem = grid_world("1a")
    task, n = problem.task, sample_sizes.gmbl_samples(problem.task, 1.0, 0.05)
    agent = OptimisticAgent(task, AgentSettings("mp", sample_sizes.failure_for_generative(task, 0.05)))
    agent.count_samples(problem.draw_counts(np.random.default_rng(0), n))
    worth = evaluate(problem, agent.deployed())
    assert 3.23193 - worth.value < 0.1
    assert task.violation(worth.costs) < 0.1


def test_constraints_enter_by_their_logarithm() -> None:
    def samples(constraints: int) -> tuple[int, int]:
        task = Task(np.zeros((3, 2)), np.zeros((constraints, 3, 2)), np.ones(constraints), 5)
        return sample_sizes.gmbl_samples_by_union(task, 0.5, 0.05), sample_sizes.gmbl_samples(task, 0.5, 0.05)

    union, ours = zip(*(samples(2**k - 1) for k in range(8)), strict=True)
    steps = np.diff(union)
    np.testing.assert_allclose(steps, steps[0], atol=2)
    assert len(set(ours)) == 1


@pytest.mark.parametrize(("epsilon", "delta", "expected"), [
    (0.0, 0.1, "epsilon: is 0.0"), (3.5, 0.1, "0 < epsilon <= 3.162"), (0.5, 0.0, "delta: is 0.0"), (0.5, 1.0, "delta"),
])  # fmt: skip
def test_bad_accuracies(epsilon: float, delta: float, expected: str) -> None:
    with pytest.raises(InvalidSetting, match=expected):
        sample_sizes.gmbl_samples(grid_world("1a").task, epsilon, delta)


# --- Agents ---------------------------------------------------------------------------------------------------


def test_an_agent_counts_what_happened_up_to_its_cap() -> None:
    problem = grid_world("1a")
    agent = OptimisticAgent(problem.task, AgentSettings("author", cap=3))
    states, actions = np.array([0, 0, 1, 0, 0, 0]), np.array([1, 1, 0, 1, 1])
    agent.count(states, actions)
    assert agent.counts.sum() == 4
    assert agent.counts[0, 1].tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0]
    assert agent.counts[1, 0, 0] == 1
    assert not agent.finished
    agent.count_samples(np.full((9, 4, 9), 1))
    assert agent.finished


def test_certainty_equivalence_is_often_infeasible_and_optimism_is_not() -> None:
    problem = tight_problem(0.01)
    infeasible = {"none": 0, "mp": 0}
    for seed in range(40):
        counts = problem.draw_counts(np.random.default_rng(seed), 50)
        for kind in infeasible:
            agent = OptimisticAgent(problem.task, AgentSettings(kind, 1e-3), counts.copy())  # type: ignore[arg-type]
            policy = agent.policy()
            np.testing.assert_allclose(policy.sum(axis=2), 1.0)
            assert agent.planned == 1
            infeasible[kind] += agent.infeasible
    assert infeasible["mp"] == 0
    assert 8 < infeasible["none"] < 32


def test_an_infeasible_ball_is_widened_until_it_is_not() -> None:
    problem = tight_problem(0.0)
    # The frequencies of another model, in which everything leads to the dearest state.
    counts = np.zeros((4, 2, 4), dtype=np.int64)
    counts[:, :, problem.task.costs[0].min(axis=1).argmax()] = 1_000
    agent = OptimisticAgent(problem.task, AgentSettings("author"), counts)
    plan, feasible = agent.plan()
    assert not feasible
    assert problem.task.violation(plan.costs) < 1e-6
    before = agent.planned
    agent.policy()
    assert (agent.planned - before, agent.infeasible) == (1, 1)


def test_hopeless_budgets_are_refused_before_any_sample() -> None:
    """Each budget can be kept, but not both: every action costs one or the other."""
    costs = np.array([[[1.0, 0.0]] * 2, [[0.0, 1.0]] * 2])
    task = Task(np.zeros((2, 2)), costs, np.array([1.0, 1.0]), 5)
    for make in (OptimisticAgent, LagrangianAgent):
        with pytest.raises(InvalidSetting, match="budgets: cannot be kept together under any kernel"):
            make(task)
    OptimisticAgent(Task(np.zeros((2, 2)), costs, np.array([2.5, 2.5]), 5))


def test_bad_settings() -> None:
    with pytest.raises(InvalidSetting, match="exploration: is 'random'"):
        AgentSettings(exploration="random")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="cap: is 0"):
        AgentSettings(cap=0)
    with pytest.raises(InvalidSetting, match="price_rate: is 0"):
        LagrangianSettings(price_rate=0.0)
    with pytest.raises(InvalidSetting, match="bonus: is -1"):
        LagrangianSettings(bonus=-1.0)


def online(
    problem: ConstrainedMDP, agent: OptimisticAgent | LagrangianAgent, episodes: int, seed: int
) -> Array:
    rng = np.random.default_rng(seed)
    for _ in range(episodes):
        agent.count(*problem.rollout(rng, agent.policy()))
    return agent.deployed()


def test_online_learning_finds_the_constrained_optimum() -> None:
    """Scenario 1a after 3,000 samples: far closer than the generative model with as many, and than at the start."""
    problem = grid_world("1a")
    gaps = {"online": [], "generative": [], "start": []}  # type: dict[str, list[float]]
    for seed in range(3):
        agent = OptimisticAgent(problem.task, AgentSettings("author"))
        gaps["start"].append(abs(evaluate(problem, agent.deployed()).value - 3.23193))
        worth = evaluate(problem, online(problem, agent, 300, seed))
        gaps["online"].append(abs(worth.value - 3.23193) + problem.task.violation(worth.costs))
        other = OptimisticAgent(problem.task, AgentSettings("author"))
        other.count_samples(problem.draw_counts(np.random.default_rng(seed), 3_000 // 36))
        worth = evaluate(problem, other.deployed())
        gaps["generative"].append(abs(worth.value - 3.23193) + problem.task.violation(worth.costs))
    mean = {name: np.mean(found) for name, found in gaps.items()}
    assert mean["online"] < 0.35
    assert mean["online"] < 0.5 * mean["generative"]
    assert mean["start"] > 1.0


def test_the_lagrangian_learner() -> None:
    """Its price rises while it overspends, and it ends near the budget with more reward than uniform actions."""
    problem = grid_world("1a")
    agent = LagrangianAgent(problem.task)
    np.testing.assert_allclose(agent.deployed(), 0.25)
    agent.count(np.array([0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]), np.ones(10, dtype=np.int64))
    assert agent._prices[0] == pytest.approx(0.05 * (10 - 2))
    worth = evaluate(problem, online(problem, LagrangianAgent(problem.task), 3_000, 0))
    uniform = evaluate(problem, uniform_policy(10, 9, 4))
    assert worth.value > 2 * uniform.value
    assert abs(worth.costs[0] - 2.0) < 0.75


# --- Deployment -----------------------------------------------------------------------------------------------


def test_actions_are_drawn_with_their_probabilities() -> None:
    policy = np.zeros((2, 3, 4))
    policy[..., 0] = 1.0
    policy[1, 2] = [0.0, 0.2, 0.0, 0.8]
    observations = np.tile([[1, 2]], (20_000, 1))
    actions = drawn(policy, observations, np.random.default_rng(0))
    assert set(np.unique(actions)) == {1, 3}
    assert (actions == 3).mean() == pytest.approx(0.8, abs=0.015)
    learned = TabularPolicy(policy)
    assert learned(np.array([[0, 1], [2, 0]]), np.random.default_rng(0)).tolist() == [0, 0]
