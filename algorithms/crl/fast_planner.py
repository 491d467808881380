"""The extended linear program solved exactly without a linear program of its size. No Ray.

Source: specification online_crl, section 7. In its budgets the extended program has the Lagrangian
``g(prices) = max E[sum_h r - sum_i prices_i c_i]`` over policies and kernels in the ball, one extended value iteration
each, whose maximisers are the program's vertices (deterministic policies with a kernel). Then

- without a binding budget the first vertex is the answer;
- with one budget the price is found by intersecting the lines of a vertex that breaks the budget and one that keeps it,
  until no vertex lies above their chord: the answer is the mixture of both whose cost is the budget;
- with several, vertices are the columns of a Dantzig-Wolfe master program, and its duals the prices.

Mixtures are of occupations ``z``, a convex set, so that the mixed policy and kernel are feasible in the program.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np

from algorithms.crl import extended_value_iteration as kernels
from algorithms.crl.confidence import Ball
from algorithms.crl.evaluation import policy_of
from algorithms.crl.plan import Plan
from envs.tabular import Array, Ints, Task
from envs.tabular.cmdp import FEASIBLE_WITHIN
from solver_pool.errors import SolverPoolError

PRICED_WITHIN = 1e-12
"""Relative to what rounding can do: how far above the chord, or above the master's dual, a vertex is a new one."""
MASTER_TOLERANCE = 1e-10
RECOVERED_ABOVE = 1e-7
"""Probability of a pair at a step above which an occupation says which kernel the plan is in."""


@dataclass(frozen=True, eq=False)
class Vertex:
    """A deterministic policy with the kernel that extended value iteration chose for it.

    Attributes:
        actions: ``(H, S)``. values: ``(H + 1, S)``, of the weights. there: ``(H, S)``, probabilities of the states.
        reward: expected. costs: ``(N,)``, expected.
    """

    actions: Ints
    values: Array
    there: Array
    reward: float
    costs: Array


@dataclass(frozen=True, eq=False)
class Mixture:
    """Vertices and their weights, which sum to one; `solves` counts the value iterations."""

    vertices: Sequence[Vertex]
    weights: Array
    solves: int


class ExtendedIteration:
    """Extended value iteration over one ball, for any weights."""

    def __init__(self, task: Task, ball: Ball) -> None:
        self.task, self.ball, self.solves = task, ball, 0
        low, high = ball.low, ball.high
        self._low: tuple[Any, ...] = kernels.compress(low)
        self._room = high - low
        self._slack = 1.0 - low.sum(axis=2)
        self._states = np.arange(task.shape[0])

    def best(self, weights: Array) -> Vertex:
        """A vertex that maximises ``E[sum_h weights[s_h, a_h]]``."""
        self.solves += 1
        task = self.task
        values, actions = kernels.backward(weights, *self._low, self._room, self._slack, task.horizon)
        there = kernels.forward(
            values, actions, task.shape[1], *self._low, self._room, self._slack, task.start
        )
        reward = float((there * task.rewards[self._states, actions]).sum())
        costs = np.array([(there * c[self._states, actions]).sum() for c in task.costs])
        return Vertex(actions, values, there, reward, costs)

    def kernel(self, mixture: Mixture) -> Array:
        """``P~ (H, S, A, S)`` of a mixture, ``z / q``; the ball's centre where q is at most `RECOVERED_ABOVE`."""
        (states, actions), horizon = self.task.shape, self.task.horizon
        z = np.zeros((horizon, states, actions, states))
        steps = np.arange(horizon)[:, None]
        for vertex, weight in zip(mixture.vertices, mixture.weights, strict=True):
            rows = kernels.chosen_kernel(
                vertex.values, vertex.actions, actions, *self._low, self._room, self._slack
            )
            z[steps, self._states, vertex.actions] += weight * vertex.there[..., None] * rows
        q = z.sum(axis=3, keepdims=True)
        known = q > RECOVERED_ABOVE
        return np.where(known, z / np.where(known, q, 1.0), self.ball.centre)

    def plan(self, mixture: Mixture, began: float) -> Plan:
        """The policy of a mixture."""
        task = self.task
        occupation = np.zeros((task.horizon, *task.shape))
        steps = np.arange(task.horizon)[:, None]
        for vertex, weight in zip(mixture.vertices, mixture.weights, strict=True):
            occupation[steps, self._states, vertex.actions] += weight * vertex.there
        return Plan(
            policy=policy_of(occupation),
            value=float(mixture.weights @ [v.reward for v in mixture.vertices]),
            costs=np.asarray(mixture.weights @ np.array([v.costs for v in mixture.vertices])),
            occupation=occupation,
            seconds=time.perf_counter() - began,
            solves=mixture.solves,
        )


def plan_fast(task: Task, ball: Ball) -> Plan | None:
    """The extended program's optimum, exactly; None where no kernel in the ball and no policy keep the budgets."""
    began = time.perf_counter()
    iteration = ExtendedIteration(task, ball)
    mixture = optimal_mixture(iteration)
    return None if mixture is None else iteration.plan(mixture, began)


def plan_cheapest(task: Task, ball: Ball) -> Plan:
    """The plan that exceeds the budgets least in sum; with one constraint, the plan of least cost."""
    began = time.perf_counter()
    iteration = ExtendedIteration(task, ball)
    if task.constraints == 1:
        return iteration.plan(_mixture([iteration.best(-task.costs[0])], [1.0], iteration), began)
    master = _Master(iteration)
    master.lower_excess()
    return iteration.plan(master.mixture(), began)


def optimal_mixture(iteration: ExtendedIteration) -> Mixture | None:
    """Vertices of the extended program whose mixture is optimal; None if it is infeasible."""
    task = iteration.task
    free = iteration.best(task.rewards)
    if (free.costs <= task.budgets + _slack(task)).all():
        return _mixture([free], [1.0], iteration)
    if task.constraints == 1:
        return _one_budget(iteration, free)
    master = _Master(iteration, free)
    return master.mixture() if master.lower_excess() and master.raise_reward() else None


def _one_budget(iteration: ExtendedIteration, over: Vertex) -> Mixture | None:
    task = iteration.task
    rewards, costs, budget = task.rewards, task.costs[0], task.budgets[0]
    under = iteration.best(-costs)
    if under.costs[0] > budget + _slack(task):
        return None
    while True:
        price = (over.reward - under.reward) / (over.costs[0] - under.costs[0])
        new = iteration.best(rewards - price * costs)
        chord = over.reward - price * over.costs[0]
        if new.reward - price * new.costs[0] <= chord + _tolerance(task, np.array([price])):
            break
        if new.costs[0] > budget + _slack(task):
            over = new
        else:
            under = new
    share = (budget - under.costs[0]) / (over.costs[0] - under.costs[0])
    share = min(max(share, 0.0), 1.0)
    return _mixture([over, under], [share, 1.0 - share], iteration)


class _Master:
    """The restricted master program of Dantzig and Wolfe over the vertices found so far::

        min  sum_i e_i                                  first: the excess over the budgets, until it is zero
        max  sum_k R_k theta_k                          then, with e = 0
        s.t. sum_k C_ik theta_k - e_i <= budget_i       i = 1 .. N
             sum_k theta_k = 1,  theta >= 0,  e >= 0

    Its duals price the budgets; the vertex that is best at these prices enters, until none improves.
    """

    def __init__(self, iteration: ExtendedIteration, first: Vertex | None = None) -> None:
        self._iteration, self._task = iteration, iteration.task
        n = self._task.constraints
        highs = self._highs = highspy.Highs()
        highs.setOptionValue("output_flag", False)
        highs.setOptionValue("threads", 1)
        for name in ("primal_feasibility_tolerance", "dual_feasibility_tolerance"):
            highs.setOptionValue(name, MASTER_TOLERANCE)
        for budget in self._task.budgets:
            highs.addRow(-highspy.kHighsInf, float(budget), 0, np.empty(0, dtype=np.int32), np.empty(0))
        highs.addRow(1.0, 1.0, 0, np.empty(0, dtype=np.int32), np.empty(0))
        for i in range(n):
            highs.addCol(1.0, 0.0, highspy.kHighsInf, 1, np.array([i], dtype=np.int32), np.array([-1.0]))
        self._vertices: list[Vertex] = []
        self._for_reward = False
        self._add(first or iteration.best(-self._task.costs.sum(axis=0)))

    def lower_excess(self) -> bool:
        """Minimise the excess; whether it is zero then."""
        excess = self._generate()
        return excess <= _slack(self._task)

    def raise_reward(self) -> bool:
        """Maximise the reward within the budgets, after `lower_excess`."""
        n = self._task.constraints
        for i, excess in enumerate(self._primal()[:n].tolist()):
            # What rounding left of the excess stays allowed, so that the program stays feasible.
            self._highs.changeColBounds(i, 0.0, max(excess, 0.0))
            self._highs.changeColCost(i, 0.0)
        self._for_reward = True
        for k, vertex in enumerate(self._vertices):
            self._highs.changeColCost(n + k, -vertex.reward)
        self._generate()
        return True

    def mixture(self) -> Mixture:
        """The vertices that the master's solution mixes."""
        weights = np.maximum(self._primal()[self._task.constraints :], 0.0)
        used = np.flatnonzero(weights > 0.0)
        return _mixture(
            [self._vertices[k] for k in used], weights[used] / weights[used].sum(), self._iteration
        )

    def _generate(self) -> float:
        """Add vertices until none improves the master; returns its objective."""
        task, n = self._task, self._task.constraints
        while True:
            self._highs.run()
            if self._highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
                raise SolverPoolError(
                    f"The master program of the planner ended with {self._highs.getModelStatus().name}; "
                    "plan with engine='pool' instead."
                )
            objective = float(self._highs.getInfo().objective_function_value)
            if not self._for_reward and objective <= 0.0:
                return objective
            duals = np.array(self._highs.getSolution().row_dual)
            prices, convexity = np.maximum(-duals[:n], 0.0), -duals[n]
            weights = -np.tensordot(prices, task.costs, axes=1)
            if self._for_reward:
                weights = weights + task.rewards
            new = self._iteration.best(weights)
            worth = (new.reward if self._for_reward else 0.0) - float(prices @ new.costs)
            if worth <= convexity + max(_tolerance(task, prices), 10 * MASTER_TOLERANCE):
                return objective
            self._add(new)

    def _add(self, vertex: Vertex) -> None:
        n = self._task.constraints
        rows = np.arange(n + 1, dtype=np.int32)
        cost = -vertex.reward if self._for_reward else 0.0
        self._highs.addCol(cost, 0.0, highspy.kHighsInf, n + 1, rows, np.append(vertex.costs, 1.0))
        self._vertices.append(vertex)

    def _primal(self) -> Array:
        return np.array(self._highs.getSolution().col_value)


def _mixture(vertices: Sequence[Vertex], weights: Any, iteration: ExtendedIteration) -> Mixture:
    return Mixture(vertices, np.asarray(weights, dtype=np.float64), iteration.solves)


def _slack(task: Task) -> float:
    """[cost units] What rounding may add to the cost of an episode."""
    return FEASIBLE_WITHIN * task.horizon


def _tolerance(task: Task, prices: Array) -> float:
    """What rounding can do to the value of ``r - prices c``."""
    scale = np.abs(task.rewards).max() + float(prices @ np.abs(task.costs).max(axis=(1, 2)))
    return PRICED_WITHIN * task.horizon * max(float(scale), 1.0)
