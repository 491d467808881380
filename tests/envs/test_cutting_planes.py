"""The cutting-plane MDP: masters against brute force, feasibility whatever the cuts, users' models, bad input."""

from __future__ import annotations

import itertools
import logging
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyscipopt
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import envs.cutting_planes.env as documented
from envs.cutting_planes import (
    Cut,
    CutProblem,
    CuttingPlaneEnv,
    FeasibilityCount,
    Master,
    MasterSettings,
    read_model,
    rows_of_model,
    rows_of_program,
    with_cuts,
)
from envs.cutting_planes.cuts import cut_rows
from envs.errors import InvalidSetting
from solver_pool.backends import highs
from solver_pool.options import SolveOptions
from solver_pool.problem import MixedIntegerProgram
from solver_pool.solution import Solution, Status

SOLVERS = ("scip", "highs")
EXACT = {solver: MasterSettings(solver=solver, gap=0.0) for solver in SOLVERS}


def knapsack(n: int, seed: int, c: Any = None) -> MixedIntegerProgram:
    """Binaries under a knapsack row, ``>=`` a cover row, and one integer tied to them by an equation."""
    rng = np.random.default_rng(seed)
    A = np.zeros((3, n + 1))
    A[0, :n], A[1, :n], A[2, :n], A[2, n] = rng.uniform(0.1, 1, n), 1.0, 1.0, -1.0
    return MixedIntegerProgram(
        c=np.zeros(n + 1) if c is None else c,
        A=A,
        row_low=np.array([-np.inf, 1.0, 0.0]),
        row_high=np.array([0.5 * A[0].sum(), np.inf, 0.0]),
        low=np.zeros(n + 1),
        high=np.append(np.ones(n), n),
        integer=np.ones(n + 1, dtype=np.bool_),
    )


def plans(program: MixedIntegerProgram) -> np.ndarray:
    """Every feasible plan of `knapsack`, by enumeration."""
    n = len(program.c) - 1
    bits = np.array(list(itertools.product([0.0, 1.0], repeat=n)))
    every = np.column_stack([bits, bits.sum(axis=1)])
    rows = every @ np.asarray(program.A).T
    return every[((rows >= program.row_low - 1e-9) & (rows <= program.row_high + 1e-9)).all(axis=1)]


def value(plan: np.ndarray, program: MixedIntegerProgram, cuts: list[Cut]) -> float:
    """The objective of (10') in the model's own units."""
    return float(-program.c @ plan + min(cut.value(plan) for cut in cuts))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("solver", SOLVERS)
def test_plans_are_the_best_of_all_by_enumeration(solver: str, normalise: bool) -> None:
    rng = np.random.default_rng(3)
    for seed in range(4):
        program = knapsack(7, seed, c=rng.standard_normal(8) if seed % 2 else None)
        every = plans(program)
        master = Master(program, settings=replace(EXACT[solver], normalise=normalise))
        for _ in range(2):
            master.reset()
            for k in range(3):
                cut = master.add(Cut(3.0 * rng.standard_normal(8), float(rng.standard_normal())))
                assert normalise == bool(np.isclose(np.sqrt((cut.w**2).mean()), 1.0))
                solution = master.solve()
                best = max(value(plan, program, master.cuts) for plan in every)
                assert value(solution.plan, program, master.cuts) == pytest.approx(best, abs=1e-6)
                assert solution.phi == pytest.approx(min(c.value(solution.plan) for c in master.cuts))
                assert (solution.status, solution.cut) == (Status.OPTIMAL, k + 1)


def test_any_binary_plan_is_one_cut_away() -> None:
    """Specification, section 1, fact (ii): w = 2 x* - 1 has the unique maximiser x*."""
    program = knapsack(7, 0)
    master = Master(program, cut_variables=range(7))
    for plan in plans(program)[::9]:
        master.reset()
        master.add(np.append(2.0 * plan[:7] - 1.0, -5.0))
        np.testing.assert_array_equal(master.solve().plan, plan)


def test_the_printed_sign_would_be_unbounded() -> None:
    """With ``phi >= b + w'x`` in a maximisation phi leaves for infinity; only the corrected sign has an optimum."""
    program = with_cuts(knapsack(4, 0), np.arange(4), [Cut(np.ones(4), 0.0), Cut(-np.ones(4), 0.5)])
    turned = replace(
        program,
        row_low=np.append(program.row_low[:-2], np.zeros(2)),
        row_high=np.append(program.row_high[:-2], np.full(2, np.inf)),
        high=np.append(program.high[:-1], np.inf),
    )
    assert highs.solve(program).status == Status.OPTIMAL
    assert highs.solve(turned).status == Status.UNBOUNDED


weights = st.one_of(
    st.floats(-1e12, 1e12),
    st.sampled_from([0.0, 1e-12, -1e-12, 1e12, -1e12, 1.0, 1e300, -1e300, 5e-324]),
)


@settings(max_examples=60, deadline=None)
@given(
    solver=st.sampled_from(SOLVERS),
    normalise=st.booleans(),
    cuts=st.lists(st.tuples(st.lists(weights, min_size=7, max_size=7), weights), min_size=1, max_size=3),
    seed=st.integers(0, 3),
)
def test_every_plan_is_feasible_whatever_the_cuts(
    solver: str, normalise: bool, cuts: list[tuple[list[float], float]], seed: int
) -> None:
    program = knapsack(6, seed)
    count, check = FeasibilityCount(), rows_of_program(program)
    master = Master(program, settings=MasterSettings(solver=solver, normalise=normalise))  # type: ignore[arg-type]
    for w, b in cuts:
        master.add(Cut(np.array(w), b))
        solution = master.solve()
        count.add(check(solution.plan))
        assert solution.status.usable, "no magnitude makes a solve fail"
    assert (count.checked, count.infeasible) == (len(cuts), 0)


@settings(max_examples=100, deadline=None)
@given(
    w=st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=1, max_size=4),
    b=st.lists(st.one_of(st.floats(-4, 4), st.floats(-1e6, 1e6)), min_size=4, max_size=4),
)
def test_scaling_and_shifting_cuts_changes_no_surrogate(w: list[list[float]], b: list[float]) -> None:
    cuts = [Cut(np.array(one), bias) for one, bias in zip(w, b, strict=False)]
    low, high = np.array([-1.0, 0.0, 0.0, -2.0]), np.array([1.0, 1.0, 3.0, 5.0])
    rows = cut_rows(cuts, np.zeros(4), low, high)
    for corner in itertools.product(*zip(low, high, strict=True)):
        x = np.array(corner)
        phi = float((rows.biases + rows.weights @ x).min())
        assert rows.low <= phi <= rows.high, "phi_max must not cut off a plan"
        unscaled = rows.scale * (phi + rows.shift)
        assert unscaled == pytest.approx(min(cut.value(x) for cut in cuts), rel=1e-9, abs=1e-6)


def test_a_cut_that_never_binds_is_left_out_and_a_single_one_needs_no_phi() -> None:
    program = knapsack(4, 0)
    level, slope, far = Cut(np.zeros(5), 0.5), Cut(np.array([1.0, 0, 0, 0, 0]), 0.0), Cut(np.ones(5), 100.0)
    rows = cut_rows([far, slope, level], program.c, program.low, program.high)
    assert len(rows.biases) == 2, "a constant cut binds where a slope rises above it"
    alone = with_cuts(program, np.arange(5), [far, Cut(np.array([1.0, 2, 3, 4, 0]), -100.0)])
    assert len(alone.c) == len(program.c)
    best = max(plans(program), key=lambda plan: plan @ np.array([1.0, 2, 3, 4, 0]))
    np.testing.assert_array_equal(highs.solve(alone).x, best)


@pytest.mark.parametrize("solver", SOLVERS)
def test_without_an_incumbent_the_previous_plan_stands(
    solver: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    master = Master(knapsack(6, 0), settings=MasterSettings(solver=solver))  # type: ignore[arg-type]
    master.add(np.append(np.arange(7.0) - 3, 0.0))
    before = master.solve().plan
    master.add(-np.arange(8.0))
    if master._kept is not None:
        monkeypatch.setattr(master._kept, "solve", lambda *_: (Status.TIME_LIMIT, None, np.inf))
    else:
        monkeypatch.setattr(highs, "solve", lambda *_: Solution.failed(Status.TIME_LIMIT, "highs", "late"))
    with caplog.at_level(logging.WARNING):
        solution = master.solve()
    assert solution.status == Status.TIME_LIMIT
    np.testing.assert_array_equal(solution.plan, before)
    assert "previous plan stands" in caplog.text


def test_a_solver_that_gives_up_loses_its_model_and_not_the_plan(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(error: str) -> Any:
        def solve(*_: Any) -> Any:
            raise Exception(error)

        return solve

    master = Master(knapsack(6, 0))
    master.add(np.append(np.arange(7.0) - 3, 0.0))
    before = master.solve().plan
    monkeypatch.setattr(master._kept, "solve", fail("SCIP: error in LP solver!"))
    solution = master.solve()
    assert solution.status == Status.ERROR
    np.testing.assert_array_equal(solution.plan, before)
    assert "made anew" in caplog.text
    assert master.solve().status == Status.OPTIMAL
    monkeypatch.setattr(master._kept, "solve", fail("a bug of ours"))
    with pytest.raises(Exception, match="a bug of ours"):
        master.solve()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_limit_leaves_a_feasible_plan(solver: str) -> None:
    rng = np.random.default_rng(0)
    program = knapsack(120, 0)
    limited = MasterSettings(solver=solver, gap=0.0, time_limit=0.3)  # type: ignore[arg-type]
    master = Master(program, range(120), limited)
    for _ in range(6):
        master.add(rng.standard_normal(121))
    solution = master.solve()
    assert solution.status == Status.FEASIBLE
    assert solution.gap > 0
    assert solution.seconds < 5.0
    assert rows_of_program(program)(solution.plan) <= 1e-6


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_heuristics_plan_stands_only_if_feasible_and_better(solver: str) -> None:
    program = knapsack(6, 0)
    master = Master(program, settings=MasterSettings(solver=solver))  # type: ignore[arg-type]
    master.add(Cut(np.append(np.ones(6), 0.0), 0.0))
    one = np.append(np.eye(6)[0], 1.0)
    ranked = sorted(plans(program), key=lambda plan: plan[-1])
    master.suggest(ranked[-1])
    for worse in (ranked[0], np.append(np.ones(6), 6.0), 2.0 * one):
        master.suggest(worse)
        np.testing.assert_array_equal(master.plan, ranked[-1])
    assert master.solve().phi >= master.cuts[0].value(ranked[-1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_solver_is_asked_where_none_can_do_better(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = knapsack(6, 0)
    every = plans(program)
    wanted = every[np.argmax(every.sum(axis=1))]
    master = Master(program, settings=EXACT[solver])
    master.add(Cut(np.append(2.0 * wanted[:-1] - 1.0, 0.0), 0.0))
    assert master.settled() is None, "the plan that stands does not reach the surrogate's maximum"
    master.suggest(wanted)
    solution = master.settled()
    assert solution is not None
    assert (solution.status, solution.gap) == (Status.OPTIMAL, pytest.approx(0.0, abs=1e-12))
    np.testing.assert_array_equal(solution.plan, wanted)
    np.testing.assert_array_equal(master.solve().plan, wanted)


def test_a_limit_of_zero_takes_the_plan_that_stands_and_knows_its_gap() -> None:
    program = knapsack(6, 1)
    master = Master(program, settings=MasterSettings("highs", time_limit=0.0, normalise=False))
    cut = master.add(Cut(np.append(np.ones(6), 0.0), 0.0))
    solution = master.solve()
    best = max(cut.value(plan) for plan in plans(program))
    assert solution.status == Status.FEASIBLE
    assert solution.phi + solution.gap * max(1.0, abs(solution.phi)) >= best


def test_a_plan_that_lies_about_itself_is_not_executed(caplog: pytest.LogCaptureFixture) -> None:
    master = Master(knapsack(6, 0))
    master.add(np.ones(8))
    before = master.plan
    full = np.append(np.ones(6), 6.0)
    good = highs.solve(master.with_cuts(), SolveOptions())
    solution = master.accept(replace(good, x=np.append(full, 1.0)))
    assert solution.status == Status.ERROR
    np.testing.assert_array_equal(solution.plan, before)
    assert "violates a constraint" in caplog.text
    assert master.accept(good).status == Status.OPTIMAL


def user_model(sense: str, *, late: bool = True, blank: str = " ") -> Any:
    model = pyscipopt.Model()
    model.hideOutput()
    # SCIP orders variables by their kind, whenever they were made.
    early = None if late else model.addVar("ups", lb=None, ub=7.5)
    x = [model.addVar(f"item{blank}{i}", vtype="B") for i in range(3)]
    z = model.addVar("zeta", lb=-2, ub=3, vtype="I")
    u = model.addVar("ups", lb=None, ub=7.5) if late else early
    model.addCons(x[0] + 2 * x[1] + 3 * x[2] <= 4)
    model.addCons(u - z >= -1)
    model.addCons(2 * u + z == 3)
    model.setObjective(x[0] + 2 * x[1] - z, sense)
    return model


def test_models_are_read_with_their_sense() -> None:
    maximised, minimised = read_model(user_model("maximize")), read_model(user_model("minimize"))
    np.testing.assert_array_equal(maximised.program.c, [-1, -2, 0, 1, 0])
    np.testing.assert_array_equal(minimised.program.c, [1, 2, 0, -1, 0])
    np.testing.assert_array_equal(maximised.program.integer, [True, True, True, True, False])
    np.testing.assert_array_equal(maximised.program.low, [0, 0, 0, -2, -np.inf])
    assert maximised.indices("item") == [0, 1, 2]
    for model, best in ((user_model("maximize"), 5.0), (user_model("minimize"), -1.0)):
        plan = Master(read_model(model).program, cut_variables=range(4)).plan
        assert plan[0] + 2 * plan[1] - plan[3] == pytest.approx(best)


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("suffix", [".lp", ".mps"])
def test_files_and_models_give_the_same_rows_by_two_readers(tmp_path: Path, suffix: str, late: bool) -> None:
    model, path = user_model("maximize", late=late, blank="_"), tmp_path / f"model{suffix}"
    model.writeProblem(str(path), trans=False, verbose=False)
    file, direct = read_model(path), read_model(model)
    blanks = read_model(user_model("maximize", late=late))
    assert sorted(file.names) == sorted(direct.names) == ["item_0", "item_1", "item_2", "ups", "zeta"]
    checks = [
        (file.names, rows_of_model(path, file.names)),
        (file.names, rows_of_program(file.program)),
        (direct.names, rows_of_model(model, direct.names)),
        (direct.names, rows_of_model(user_model("maximize", late=late), blanks.names)),
    ]
    rng = np.random.default_rng(0)
    feasible = 0
    for _ in range(300):
        # Halves: every other integer is fractional; u solves the equation every other time.
        x, z, u = rng.integers(0, 3, 3) / 2, rng.integers(-6, 9) / 2, rng.integers(-10, 20) / 2
        u = (3 - z) / 2 if rng.random() < 0.5 else u
        point = {"item_0": x[0], "item_1": x[1], "item_2": x[2], "zeta": z, "ups": u}
        worst = max(
            0.0, x[0] + 2 * x[1] + 3 * x[2] - 4, -1 - (u - z), abs(2 * u + z - 3), -2 - z, z - 3, u - 7.5,
            *(abs(v - np.round(v)) for v in (*x, z)),
        )  # fmt: skip
        feasible += worst == 0
        for names, check in checks:
            assert check(np.array([point[name] for name in names])) == pytest.approx(worst, abs=1e-12)
    assert 0 < feasible < 300
    assert checks[0][1](np.full(5, np.nan)) == np.inf


def test_the_example_of_the_documentation_runs() -> None:
    text = (documented.__doc__ or "").split("::\n", 1)[1]
    assert len([line for line in text.splitlines() if line.strip()]) <= 20
    scope: dict[str, Any] = {}
    exec(textwrap.dedent(text), scope)
    env, info = scope["env"], scope["info"]
    assert info["objective"] == scope["reward"](env.plan)
    assert (env.feasibility.checked, env.feasibility.infeasible) == (2, 0)
    env.reset()
    env.step(np.array([1.0, 1.0, -1, 1, 0]))
    assert env.step(np.array([1.0, 1.0, -1, 1, 0]))[4]["objective"] == 6.0, "items 0, 1 and 3 together"


def quadratic(n: int, seed: int, **changes: Any) -> CuttingPlaneEnv:
    target = np.random.default_rng(seed).standard_normal(n + 1)
    problem = CutProblem.of_model(knapsack(n, seed), lambda plan: 2.0 + float(plan @ target) ** 2)
    return CuttingPlaneEnv(problem, **changes)


def test_the_mathematics_do_not_import_ray() -> None:
    modules = "envs.cutting_planes, envs.packing, envs.job_shop"
    code = f"import sys, {modules}; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_gymnasium_accepts_the_environment() -> None:
    check_env(quadratic(5, 0), skip_render_check=True)


@pytest.mark.parametrize("cuts", [1, 3])
def test_the_return_is_the_last_plans_value_either_way(cuts: int) -> None:
    rng = np.random.default_rng(0)
    actions = rng.standard_normal((cuts, 7))
    per_cut, at_end = (quadratic(5, 1, cuts=cuts, reward=r) for r in ("per_cut", "at_end"))
    per_cut.reset()
    at_end.reset()
    steps = [(per_cut.step(a), at_end.step(a)) for a in actions]
    assert [s[0][2] for s in steps] == [False] * (cuts - 1) + [True]
    last = steps[-1][0][4]["objective"]
    assert sum(s[0][1] for s in steps) == pytest.approx(last)
    assert [s[1][1] for s in steps] == [0.0] * (cuts - 1) + [last]
    assert steps[-1][0][4]["best_objective"] == max(s[0][4]["objective"] for s in steps)
    assert per_cut.problem.objective(per_cut.best_plan) == steps[-1][0][4]["best_objective"]
    with pytest.raises(ResetNeeded):
        per_cut.step(actions[0])


def test_a_step_in_two_halves_is_a_step() -> None:
    whole, halves = quadratic(5, 2, cuts=2), quadratic(5, 2, cuts=2)
    whole.reset()
    halves.reset()
    for action in np.random.default_rng(0).standard_normal((2, 7)):
        step = halves.stepping(action)
        master = next(step)
        with pytest.raises(StopIteration) as end:
            step.send(master.accept(highs.solve(master.with_cuts(), SolveOptions(gap=0.0))))
        one, two = whole.step(action), end.value.value
        assert one[0] == two[0]
        assert one[1:4] == two[1:4]


def test_an_episode_after_another_is_like_the_first() -> None:
    env = quadratic(5, 0)
    actions = np.random.default_rng(1).standard_normal((2, 7))
    first = [env.reset()[0], *(env.step(a)[0] for a in actions)]
    again = [env.reset()[0], *(env.step(a)[0] for a in actions)]
    assert first == again
    assert first[1] != first[2]


def test_instances_are_drawn_by_the_environments_generator() -> None:
    def draw(rng: np.random.Generator) -> CutProblem:
        return CutProblem.of_model(knapsack(int(rng.integers(4, 9)), int(rng.integers(99))), np.sum)

    env, other = CuttingPlaneEnv(draw), CuttingPlaneEnv(draw)
    sizes = []
    for k in range(5):
        observation, _ = env.reset(seed=7 if k == 0 else None)
        assert observation == other.reset(seed=7 if k == 0 else None)[0]
        sizes.append(len(observation.variables))
        env.step(np.ones(len(env.problem.cut_variables) + 1))
    assert len(set(sizes)) > 1
    given_problem = draw(np.random.default_rng(5))
    assert len(env.reset(options={"problem": given_problem})[0].variables) == len(given_problem.program.c)
    fixed = quadratic(5, 0)
    before, kept = fixed.reset()[0], fixed.master
    assert fixed.reset(options={"problem": given_problem})[0] != before
    assert fixed.master is not kept
    assert fixed.reset()[0] == before, "a given instance is played once"


def test_a_fixed_master_stays_alive_over_episodes() -> None:
    env = quadratic(5, 0)
    kept = env.master._kept
    for _ in range(3):
        env.reset()
        env.step(np.ones(7))
    assert env.master._kept is kept is not None


# --- Bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_infeasible_or_unbounded_master_is_refused_before_training(solver: str) -> None:
    program, options = knapsack(5, 0), MasterSettings(solver=solver)  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="model: is infeasible"):
        Master(replace(program, row_low=np.array([-np.inf, 6.0, 0.0])), settings=options)
    free = MixedIntegerProgram(
        c=np.array([0.0, -1.0]), A=np.array([[1.0, 0.0]]), row_low=np.array([-np.inf]), row_high=np.ones(1),
        low=np.zeros(2), high=np.array([1.0, np.inf]), integer=np.array([True, False]),
    )  # fmt: skip
    with pytest.raises(InvalidSetting, match="model: is unbounded"):
        Master(free, cut_variables=[0], settings=options)
    with pytest.raises(InvalidSetting, match=r"cut_variables: variable 1 has the bounds \[0.0, inf\]"):
        Master(free, settings=options)


def test_no_plan_within_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Solution.failed(Status.TIME_LIMIT, "scip", "SCIP ended with 'timelimit'")
    monkeypatch.setattr("envs.cutting_planes.master.scip.solve", lambda *_: late)
    with pytest.raises(InvalidSetting, match=r"time_limit: of 5\.0 s ended without a plan .*feasible start"):
        Master(knapsack(5, 0))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.array([1.0, np.nan, 0, 0, 0, 0, 0]), "w: is nan at index 1"),
        (np.array([1.0, 0, 0, 0, 0, -np.inf, 0]), "w: is -inf at index 5"),
        (np.array([1.0, 0, 0, 0, 0, 0, np.nan]), "b: is nan"),
        (np.ones(6), r"action: has shape \(6,\), expected \(7,\)"),
    ],
)
def test_an_unusable_cut_is_named_and_nothing_is_solved(action: Any, message: str) -> None:
    env = quadratic(5, 0)
    env.reset()
    with pytest.raises(InvalidSetting, match=message) as error:
        env.step(action)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert env.master.cuts == []
    assert env.step(np.ones(7))[4]["status"] == Status.OPTIMAL
    with pytest.raises(InvalidSetting, match=r"w: has shape \(5,\), expected \(6,\)"):
        env.step(Cut(np.ones(5), 0.0))


def test_an_objective_that_is_no_number_is_named() -> None:
    env = CuttingPlaneEnv(CutProblem.of_model(knapsack(4, 0), lambda plan: float("nan")))
    env.reset()
    with pytest.raises(InvalidSetting, match="objective: returned nan for the plan"):
        env.step(np.ones(6))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.lp", "garbage &&& [[\n"), ("a.lp", ""), ("a.mps", "ROWS\n X bad\n"), ("a.lp", None), ("a.txt", "")],
)
def test_a_file_that_does_not_parse_is_named(tmp_path: Path, name: str, content: str | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidSetting, match=r"model: .*(does not parse|does not exist|no LP or MPS file)"):
        read_model(path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_no_linear_model_is_refused() -> None:
    model = pyscipopt.Model()
    x = model.addVar("x", lb=0, ub=1)
    model.addCons(x * x <= 0.5, name="bow")
    with pytest.raises(InvalidSetting, match="constraint bow: is of the kind 'nonlinear'"):
        read_model(model)
    with pytest.raises(InvalidSetting, match="model: is a dict"):
        read_model({})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Master(knapsack(4, 0), cut_variables=[]), "cut_variables: are"),
        (lambda: Master(knapsack(4, 0), cut_variables=[0, 0]), "cut_variables: are .*distinct"),
        (lambda: Master(knapsack(4, 0), cut_variables=[9]), "cut_variables: are .*from 0 to 4"),
        (lambda: Master(knapsack(4, 0)).solve(), "cuts: are none"),
        (lambda: MasterSettings(solver="cplex"), "solver: is 'cplex'"),  # type: ignore[arg-type]
        (lambda: MasterSettings(gap=-1), "gap: is -1"),
        (lambda: MasterSettings(time_limit=-1), "time_limit: is -1 s"),
        (lambda: MasterSettings(tolerance=0), "tolerance: is 0"),
        (lambda: quadratic(4, 0, cuts=0), "cuts: is 0"),
        (lambda: quadratic(4, 0, reward="sometimes"), "reward: is 'sometimes'"),
        (lambda: CutProblem.of_model(knapsack(4, 0), np.sum, cut_variables="x"), "cut_variables: .*no names"),
        (
            lambda: CutProblem.of_model(user_model("maximize"), np.sum, cut_variables="w"),
            "prefix: 'w' begins no variable's name",
        ),
        (lambda: CutProblem.of_model(user_model("maximize"), np.sum), "cut_variables: variable 4"),
    ],
)
def test_an_unusable_setting_is_named(make: Any, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        make()
