"""RLlib's nested result of an iteration, as the few scalars that logs, tables and reports show. No Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

OUTCOMES = ("certified", "repaired", "fallback", "unsafe")
LOSSES = ("critic_loss", "actor_loss", "policy_loss", "value_loss", "entropy", "kl", "clipped_fraction")
CRL = ("value", "value_gap", "violation", "infeasible")
MASTER = ("seconds", "seconds_p95", "gap", "stood")


def scalars(result: Mapping[str, Any]) -> dict[str, float]:
    """Scalars of one iteration, without those that the algorithm does not report or that are not finite.

    ``samples``, ``episode`` (the last one's number) and ``seconds`` [s] since the start; ``reward_mean`` over the last
    episodes; the learner's `LOSSES`; executed actions since the start by what the shield did, ``shield/<outcome>``;
    of masters with cuts, lately, ``master/seconds`` [s], their quantile ``seconds_p95`` and ``gap``, and since the
    start ``stood`` (solves without a new plan); ``plans/checked`` and ``infeasible`` since the start; of tabular
    policies in their true model ``crl/value``, its distance to the optimum ``value_gap`` and ``violation`` of the
    budgets, and the plans whose program was ``infeasible`` since the start; and of this
    iteration's solves ``solver/solves``, ``failures`` (not certified optimal), ``seconds`` [s],
    ``seconds_per_step`` [s / environment step], ``worker_restarts``, ``replays`` and, where the solver bounds
    the global optimum, ``gap``. Each counter of each backend (`SolverPool.metrics`) is
    ``solver/<backend>/<counter>``.
    """
    runners = _mapping(result, "env_runners")
    learner = _mapping(_mapping(result, "learners"), "default_policy")
    found: dict[str, Any] = {
        "iteration": result.get("training_iteration"),
        "samples": result.get("num_env_steps_sampled_lifetime"),
        "seconds": result.get("time_total_s"),
        "reward_mean": runners.get("episode_return_mean"),
        "episode": runners.get("num_episodes_lifetime"),
        **{name: learner.get(name) for name in LOSSES},
        **{f"master/{name}": _mapping(runners, "master").get(name) for name in MASTER},
        **{f"crl/{name}": _mapping(result, "crl").get(name) for name in CRL},
        **{f"plans/{name}": _mapping(runners, "plans").get(name) for name in ("checked", "infeasible")},
    }
    shield = _mapping(runners, "shield")
    found |= {f"shield/{name}": shield.get(name, 0.0) for name in OUTCOMES if shield}

    solver = _mapping(result, "solver")
    backends = [tally for tally in solver.values() if isinstance(tally, Mapping)]
    if backends:
        total = {
            name: sum(float(tally.get(name, 0.0)) for tally in backends)
            for name in ("solves", "status_optimal", "solver_seconds", "worker_restarts", "replays")
        }
        steps = float(runners.get("num_env_steps_sampled", 0.0))
        found |= {
            "solver/solves": total["solves"],
            "solver/failures": total["solves"] - total["status_optimal"],
            "solver/seconds": total["solver_seconds"],
            "solver/seconds_per_step": total["solver_seconds"] / steps if steps else None,
            "solver/worker_restarts": total["worker_restarts"],
            "solver/replays": total["replays"],
            "solver/gap": solver.get("gap"),
        }
        for backend, tally in solver.items():
            if isinstance(tally, Mapping):
                found |= {f"solver/{backend}/{counter}": value for counter, value in tally.items()}
    return {name: float(v) for name, v in found.items() if v is not None and math.isfinite(float(v))}


def number(value: float) -> str:
    """A reward, with as many digits as its size calls for."""
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


def _mapping(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = result.get(name)
    return value if isinstance(value, Mapping) else {}
