"""What the experiments with tabular constrained MDPs have in common: presets, evaluation, sections of the report."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from algorithms.crl.confidence import Ball
from algorithms.crl.evaluation import evaluate, occupancy, uniform_policy
from algorithms.crl.fast_planner import plan_fast
from algorithms.crl.policy import TabularPolicy, drawn
from envs.tabular import Array, ConstrainedMDP, TabularEnv, Task
from tune_configs import figures
from tune_configs.evaluation import Columns, Evaluation, PolicyResult
from tune_configs.experiment import Section
from tune_configs.runs import Record

EPISODES_METRIC = "env_runners/num_episodes_lifetime"
CHECKPOINT_EVERY = 10.0
"""[s]; an iteration takes a tenth of one."""
RADII = ("author", "mp")
"""Of the ball, that a sweep tries."""


def fit(config: Any, episodes: int) -> None:
    """Iterations of a number of episodes that divides the run's."""
    config.training(episodes_per_iteration=math.gcd(config.episodes_per_iteration, episodes))


def opened(config: Any, seeds: int, rates: bool) -> Any:
    """Seeds ``0 .. seeds - 1`` as a grid; `rates` adds the radius, or the prices' rate, of algorithms with one."""
    from ray import tune

    config.debugging(seed=tune.grid_search(list(range(seeds))))
    if rates and hasattr(config, "radius"):
        config.training(radius=tune.grid_search(list(RADII)))
    elif rates:
        config.training(price_rate=tune.choice([f * config.price_rate for f in (0.25, 0.5, 1.0, 2.0)]))
    return config


def evaluation(checkpoint: Path, episodes: int, seed: int) -> Evaluation:
    """The learned policy beside what the true model allows, exactly and on fresh episodes.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    learned = TabularPolicy.from_checkpoint(checkpoint)
    env = gym.make(learned.env, disable_env_checker=True, **learned.env_config).unwrapped
    assert isinstance(env, TabularEnv)
    task, problem = env.task, env.problem
    policies = {f"{learned.name}, deployed": learned.policy}
    if problem is not None:
        best = plan_fast(task, Ball.point(problem.kernel))
        free = Task(
            task.rewards, task.costs[:0], task.budgets[:0], task.horizon, task.start
        )  # what the reward alone asks for
        unconstrained = plan_fast(free, Ball.point(problem.kernel))
        if best is not None:
            policies["optimal (knows the model)"] = best.policy
        if unconstrained is not None:
            policies["no budget (knows the model)"] = unconstrained.policy
    policies["uniform actions"] = uniform_policy(task.horizon, *task.shape)
    rows = [_measured(name, policy, env, problem, episodes, seed) for name, policy in policies.items()]
    budget = ", ".join(f"{b:g}" for b in task.budgets)
    columns = Columns(
        penalty=f"cost (budget {budget})",
        digits=3,
        violations="",
        time="ms per action",
        note=(
            "Budgets hold for expected costs: single episodes may cost more. Exact figures are computed in the true "
            "model, without sampling; the gap is the distance of the exact value to that of the optimal policy."
        ),
    )
    setting = f"{task.shape[0]} states, {task.shape[1]} actions, {task.horizon} steps"
    return Evaluation(episodes, seed, setting, rows, columns, _drawing(env, problem, policies))


def sections(records: Sequence[Record]) -> list[Section]:
    """How value and costs came to the optimum, and where the deployed policy goes."""
    found = []
    lines = [[line for line in record.iterations if "crl/value_gap" in line] for record in records]
    if any(lines):
        note = (
            "Of the policy that would be deployed after so many samples, exactly in the true model: distance of its "
            "value to the optimal one, and the excess of its expected cost over the budget (the paper's figures)."
        )
        drawing = figures.optimality([run for run in lines if run])
        found.append(Section("Distance to the optimum over samples", drawing, note))
    drawn_by = next((r.evaluation.drawing for r in records if r.evaluation and r.evaluation.drawing), None)
    if drawn_by:
        note = (
            "Left: expected visits of each state in an episode. Right: the probability of each action, over the steps "
            "at which a state is visited. Of the first run."
        )
        found.append(Section("Where policies go", figures.tabular_policies(drawn_by), note))
    return found


def _measured(
    name: str, policy: Array, env: TabularEnv, problem: ConstrainedMDP | None, episodes: int, seed: int
) -> PolicyResult:
    generator = np.random.default_rng(seed)
    rewards, costs = np.zeros(episodes), np.zeros((episodes, env.task.constraints))
    seconds = []
    for i in range(episodes):
        observation, _ = env.reset(seed=seed if i == 0 else None)
        over = False
        while not over:
            started = time.perf_counter()
            action = drawn(policy, observation[None], generator)[0]
            seconds.append(time.perf_counter() - started)
            observation, reward, over, _, info = env.step(action)
            rewards[i] += reward
            costs[i] += info["cost"]
    more: dict[str, list[float]] = {}
    if problem is not None:
        worth = evaluate(problem, policy)
        best = plan_fast(problem.task, Ball.point(problem.kernel))
        more = {"exact value": [worth.value], "exact cost": [float(worth.costs.sum())]}
        if best is not None:
            more["gap"] = [abs(worth.value - best.value)]
    total = costs.sum(axis=1)
    return PolicyResult(
        name,
        (float(rewards.mean()), float(rewards.std())),
        (float(total.mean()), float(total.std())),
        rewards.tolist(),
        total.tolist(),
        ms_per_action=1e3 * float(np.median(seconds)),
        more=more,
    )


def _drawing(env: TabularEnv, problem: ConstrainedMDP | None, policies: dict[str, Array]) -> dict[str, Any]:
    """Layout, and occupations ``(S, A)`` over all steps of the learned and the optimal policy."""
    if env.layout is None or problem is None:
        return {}
    chosen = list(policies.items())[: 2 if len(policies) > 2 else 1]
    return {
        "rows": env.layout.rows,
        "columns": env.layout.columns,
        "marks": {str(state): mark for state, mark in env.layout.marks.items()},
        "moves": [list(move) for move in env.layout.moves],
        "occupations": {
            name: occupancy(problem.kernel, policy, problem.task.start).sum(axis=0).tolist()
            for name, policy in chosen
        },
    }
