"""How many samples the theorems ask for. No Ray.

Source: seed 003, Theorems 1 and 2, Lemmas 4 and 12; specification online_crl, sections 4 and 5. The printed constants
are lost in the seed. Those of Optimistic-GMBL are proved in the specification; what follows UCFH (Dann and Brunskill,
2015) instead says so. All of them assume rewards and costs in [0, 1]; divide epsilon by their range otherwise.
"""

from __future__ import annotations

import math

from envs.errors import InvalidSetting
from envs.tabular import Task

KAPPA = 11.43
"""Of the bound ``|p - p~| <= sqrt(8) u y + KAPPA u^2`` on two members of a ball (specification, section 4)."""


def failure_for_generative(task: Task, delta: float) -> float:
    """``delta / (S S A)``: probability that one entry of the kernel lies outside, over a union of all entries."""
    states, actions = task.shape
    return _probability(delta) / (states * states * actions)


def gmbl_samples(task: Task, epsilon: float, delta: float) -> int:
    """Samples of each pair after which Optimistic-GMBL is within `epsilon` with probability ``1 - delta`` (Theorem 1).

    ``n = 1 + ceil(32 S H^3 log(8 S^2 A / delta) / epsilon^2)``. Rewards and costs are known, so that the bad event
    concerns the kernel alone and the number of constraints does not enter (`gmbl_samples_by_union` has the paper's
    dependence).

    Raises:
        InvalidSetting: unless ``0 < epsilon <= min(sqrt(H), 0.7 H)`` and ``0 < delta < 1``.
    """
    most = min(math.sqrt(task.horizon), 0.7 * task.horizon)
    if not 0 < epsilon <= most:
        raise InvalidSetting("epsilon", f"is {epsilon}", f"The theorem holds for 0 < epsilon <= {most:.4g}.")
    states, _ = task.shape
    log8 = math.log(8.0 / failure_for_generative(task, delta))
    return 1 + math.ceil(32.0 * states * task.horizon**3 * log8 / epsilon**2)


def gmbl_error(task: Task, samples: int, delta: float) -> float:
    """The bound that `gmbl_samples` inverts: epsilon reached with so many samples of each pair.

    With ``u^2 = log(8 S^2 A / delta) / (n - 1)``: ``sqrt(8 S) u H^{3/2} + 2 KAPPA u^2 S H^2``, where
    ``sqrt(8 S) u H <= 1/2``; infinite with fewer samples.
    """
    states, horizon = task.shape[0], task.horizon
    if samples < 2:
        return math.inf
    u = math.sqrt(math.log(8.0 / failure_for_generative(task, delta)) / (samples - 1))
    if math.sqrt(8.0 * states) * u * horizon > 0.5:
        return math.inf
    return math.sqrt(8.0 * states * horizon) * u * horizon + 2.0 * KAPPA * u * u * states * horizon**2


def gmbl_samples_by_union(task: Task, epsilon: float, delta: float) -> int:
    """The same with the paper's union bound over the N + 1 value functions: ``log(12 (N + 1) S^2 A H / delta)``.

    Reconstructed: it shows the dependence on N that Theorem 1 states, ``log(N + 1)`` and no more.
    """
    states, actions = task.shape
    inside = 12.0 * (task.constraints + 1) * states**2 * actions * task.horizon / _probability(delta)
    return 1 + math.ceil(32.0 * states * task.horizon**3 * math.log(inside) / _positive(epsilon) ** 2)


def least_weight(task: Task, epsilon: float) -> float:
    """``w_min = epsilon / (4 H S)``: pairs that a policy visits less often do not matter (Theorem 2, as in UCFH)."""
    return _positive(epsilon) / (4.0 * task.horizon * task.shape[0])


def online_known(task: Task, epsilon: float, delta: float) -> int:
    """m: visits, in units of a pair's weight, after which it counts as known (Theorem 2).

    The greater of the leading term ``1024 S H^2 / epsilon^2`` of the public scripts and Lemma 4's
    ``(6 H^2 / epsilon) log(2 E_max / delta)``. Reconstructed.
    """
    horizon, states = task.horizon, task.shape[0]
    leading = 1024.0 * states * horizon**2 / _positive(epsilon) ** 2
    lemma = 6.0 * horizon**2 / epsilon * math.log(2.0 * _levels(task, epsilon) / _probability(delta))
    return math.ceil(max(leading, lemma))


def online_cap(task: Task, epsilon: float, delta: float) -> int:
    """``S m H``: visits of a pair after which Algorithm 2 counts no more of them."""
    return task.shape[0] * online_known(task, epsilon, delta) * task.horizon


def online_episodes(task: Task, epsilon: float, delta: float) -> int:
    """Episodes that may be worse than epsilon, at most, with probability ``1 - delta``: ``6 S A m E_max`` (Lemma 4)."""
    states, actions = task.shape
    m = online_known(task, epsilon, delta)
    return math.ceil(6.0 * states * actions * m * _levels(task, epsilon))


def failure_for_online(task: Task, epsilon: float, delta: float) -> float:
    """``delta / (4 (N + 1) S U_max)`` with ``U_max = S^2 A m H`` model updates (Lemmas 3 and 12)."""
    states, actions = task.shape
    updates = states**2 * actions * online_known(task, epsilon, delta) * task.horizon
    return _probability(delta) / (4.0 * (task.constraints + 1) * states * updates)


def _levels(task: Task, epsilon: float) -> float:
    """``E_max = log2(H / w_min) log2(S)``, at least 1."""
    states = task.shape[0]
    return max(math.log2(task.horizon / least_weight(task, epsilon)) * math.log2(max(states, 2)), 1.0)


def _probability(delta: float) -> float:
    if not 0 < delta < 1:
        raise InvalidSetting("delta", f"is {delta}", "Choose a probability in (0, 1).")
    return delta


def _positive(epsilon: float) -> float:
    if not epsilon > 0:
        raise InvalidSetting("epsilon", f"is {epsilon}", "Give a positive accuracy.")
    return epsilon
