"""A shield for stock RLlib algorithms, by one line of configuration::

    config = shielded(PPOConfig().environment("Pendulum-v1"), safe_set=PendulumSpeedLimit(6.0))

Every action on its way to the environment is then checked against its rows, repaired by projection on them
where it fails, and verified by code that did not produce it (`algorithms.common.shield`), in training and in
evaluation, on every runner. Results count what was done: ``env_runners/shield/certified``, ``repaired``,
``fallback`` and ``unsafe``.

What the learner sees (seed 002; specification projection_pg, sections 3 to 5):

- *On-policy algorithms* (PPO, APPO, IMPALA) keep the action that was sampled, with its log-probability: the
  projection is part of the environment. The policy gradient is unbiased with the score at the sample and the
  advantage of the action that was executed. The score at the executed action would be wrong: its law has mass on
  the faces of the set. No layer is needed, nor would one change anything.
- *Off-policy algorithms* (SAC, TQC) store the action that was executed, which the critic learns from.
- *The layer of SAC* is `ProjectingSACModule`: the critics in the actor's loss and in the target see the policy's
  action as the shield would execute it, so that the policy's gradient is multiplied by the derivative M of the
  projection. Without it the policy climbs a critic at actions that are never executed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module import DefaultSACTorchRLModule
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from algorithms.common.connectors import ReadObservations, ShieldActions, Store
from algorithms.common.environments import make_env
from algorithms.common.projection import project_polytope, through
from algorithms.common.scaling import ActionScale
from algorithms.common.shield import Mode
from envs.errors import InvalidSetting
from envs.safe_set import SafeSet
from solver_pool.pool import SolverPool
from solver_pool.problem import Array

Config = TypeVar("Config", bound=AlgorithmConfig)

OFF_POLICY: tuple[type[AlgorithmConfig], ...] = (SACConfig,)
ON_POLICY: tuple[type[AlgorithmConfig], ...] = (PPOConfig, IMPALAConfig)
"""Those of RLlib, with all that derive from them, such as TQC and APPO."""


def shielded(
    config: Config,
    safe_set: SafeSet | None = None,
    *,
    mode: Mode = "repair",
    store: Store | None = None,
    layer: bool | None = None,
) -> Config:
    """Put the shield into `config`, and return it. Call it last: it sets the connectors and the actions' scaling.

    Connectors that were set before stay, between RLlib's own and the shield. The module's actions are still
    normalised, ``[-1, 1]`` for the action space's bounds, but it is the shield that scales them.

    Args:
        config: of an algorithm for one agent with a bounded Box of actions, with its environment.
        safe_set: rows for each observation that the environment returns. Default: each environment's own ``safe_set``.
        mode: ``"repair"``, or ``"raw"`` to execute and count unsafe actions, for comparison.
        store: ``"sampled"`` or ``"executed"``, which action the learner sees. Default: by algorithm, see above.
        layer: whether the losses project too. Default: for SAC and ``mode="repair"``. PPO needs none.

    Raises:
        InvalidSetting: naming the argument or the field of the safe set that does not fit the environment.
    """
    if isinstance(config._module_to_env_connector, _BuildShield):
        raise InvalidSetting("config", "is shielded already", "Call shielded(config, ...) once.")
    if config.is_multi_agent:
        raise InvalidSetting("config", "is of several agents", "A safe set speaks of the actions of one.")
    if mode not in ("raw", "repair"):
        raise InvalidSetting("mode", f"is {mode!r}", "Use 'raw' or 'repair'.")
    given, space = _fitting(config, safe_set)
    scale = ActionScale(space)
    store = _stored(config) if store is None else store
    if store not in ("executed", "sampled"):
        raise InvalidSetting("store", f"is {store!r}", "Use 'executed' or 'sampled'.")
    stock = config.get_default_rl_module_spec().module_class is DefaultSACTorchRLModule
    if layer is None:
        layer = stock and mode == "repair"
    if layer:
        _add_layer(config, given, stock, mode)
    config.env_runners(
        env_to_module_connector=_ReadFirst(config._env_to_module_connector),
        module_to_env_connector=_BuildShield(
            config._module_to_env_connector, safe_set, given, mode, scale, store
        ),
    )
    # RLlib's own scaling would run after the shield, and overwrite what it decided.
    config.environment(normalize_actions=False, clip_actions=False)
    return config


class ProjectingSACModule(DefaultSACTorchRLModule):
    """SAC's module whose critics see the policy's actions as the shield executes them.

    With proposals ``a`` in the module's scale and ``D`` that scale, the critics of the actor's loss and of the target
    are ``Q(s, P(a))`` with ``P(a) = D^-1 r(Proj(clip(D a)))``, the projection on the rows of `s`. So the actor's
    gradient is ``D M D^-1 grad_a Q`` at the executed action, with ``M`` the derivative of the projection
    (specification projection_pg, sections 3 and 4). A rounding ``r`` of the safe set counts as the identity in the
    gradient. Where the projection fails, the safe set's fallback stands, without a gradient. The entropy is that of
    the proposals. Actions of the replay buffer were executed and are taken as they are.

    Its model config has the `SafeSet` under ``"safe_set"``.
    """

    def setup(self) -> None:
        super().setup()
        self._safe_set: SafeSet = self.model_config["safe_set"]
        self._scale = ActionScale(self.action_space)
        self._pool = SolverPool()

    def compute_q_values(self, batch: dict[str, Any], squeeze: bool = True) -> Any:
        return super().compute_q_values(self._executed(batch), squeeze)

    def forward_target(self, batch: dict[str, Any], squeeze: bool = True) -> Any:
        return super().forward_target(self._executed(batch), squeeze)

    def _executed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its actions ``(B, n_a)`` projected on the rows of its observations."""
        proposed = batch[Columns.ACTIONS]
        safe_set, device = self._safe_set, proposed.device
        low, high = (torch.as_tensor(bound, device=device) for bound in (self._scale.low, self._scale.high))
        width = high - low
        # In float64, as the shield computes; it clips to the box of the safe set first, too.
        wanted = low + 0.5 * (proposed.double() + 1.0) * width
        wanted = wanted.clamp(*(torch.as_tensor(b, device=device) for b in (safe_set.low, safe_set.high)))
        observations = batch[Columns.OBS].detach().cpu().numpy().astype(np.float64)
        answer = project_polytope(
            wanted.detach().cpu().numpy(),
            *safe_set.rows(observations),
            safe_set.low,
            safe_set.high,
            self._pool,
            on_failure="mask",
        )
        solved = torch.as_tensor(answer.solved, device=device)[:, None]
        point = torch.where(
            solved,
            through(wanted, answer),
            torch.as_tensor(safe_set.fallback(observations), device=device),
        )
        rounded = torch.as_tensor(safe_set.executable(point.detach().cpu().numpy()), device=device)
        point = point + (rounded - point.detach())
        scaled = 2.0 * (point - low) / torch.where(width > 0.0, width, 1.0) - (width > 0.0).double()
        return {**batch, Columns.ACTIONS: scaled.to(proposed)}


# --- What the configuration carries: picklable functions that build connectors on every runner -------------------

Build = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class _ReadFirst:
    """Builds the env-to-module connectors: `ReadObservations`, then those of the user."""

    own: Build | None

    def __call__(self, env: Any = None, spaces: Any = None, device: Any = None) -> list[ConnectorV2]:
        return [ReadObservations(), *_built(self.own, env, spaces, device)]


@dataclass(frozen=True, eq=False)
class _BuildShield:
    """Builds the module-to-env connectors: those of the user, then `ShieldActions`.

    Attributes:
        own: of the user. given: the safe set as given. probed: the one to use where a runner's environment has none.
    """

    own: Build | None
    given: SafeSet | None
    probed: SafeSet
    mode: Mode
    scale: ActionScale
    store: Store

    def __call__(self, env: Any = None, spaces: Any = None) -> list[ConnectorV2]:
        safe_set = self.given or _safe_set_of(env) or self.probed
        shield = ShieldActions(safe_set=safe_set, mode=self.mode, scale=self.scale, store=self.store)
        return [*_built(self.own, env, spaces), shield]


def _built(own: Build | None, *arguments: Any) -> Sequence[ConnectorV2]:
    pieces = [] if own is None else own(*arguments)
    return [pieces] if isinstance(pieces, ConnectorV2) else list(pieces)


def _safe_set_of(env: Any) -> SafeSet | None:
    """The safe set of a runner's environments: evaluation may play others than training."""
    if env is None:
        return None
    vector = env.unwrapped
    if isinstance(vector, gym.vector.SyncVectorEnv | gym.vector.AsyncVectorEnv):
        own: SafeSet | None = vector.get_attr("safe_set")[0]
        return own
    return getattr(vector, "safe_set", None)


# --- Checks --------------------------------------------------------------------------------------------------------


def _fitting(config: AlgorithmConfig, safe_set: SafeSet | None) -> tuple[SafeSet, gym.spaces.Box]:
    """The safe set, given or the environment's, tried on a first observation; and the action space."""
    env = make_env(config)
    try:
        if safe_set is None:
            if not env.has_wrapper_attr("safe_set"):
                raise InvalidSetting(
                    "safe_set",
                    f"is missing, and the environment {config.env!r} has none of its own",
                    "Give one, shielded(config, safe_set=...), with all that envs.safe_set.SafeSet names.",
                )
            safe_set = env.get_wrapper_attr("safe_set")
        if not isinstance(safe_set, SafeSet):
            raise InvalidSetting(
                "safe_set", f"is {safe_set!r}", "Give an object with all that envs.safe_set.SafeSet names."
            )
        space = env.action_space
        if (
            not isinstance(space, gym.spaces.Box)
            or len(space.shape) != 1
            or not np.issubdtype(space.dtype, np.floating)
            or not (np.isfinite(space.low).all() and np.isfinite(space.high).all())
        ):
            raise InvalidSetting(
                "action_space",
                f"of {config.env!r} is {space}",
                "The shield needs a Box of real numbers with finite bounds and shape (n_a,).",
            )
        observation, _ = env.reset(seed=0)
        _try(safe_set, np.asarray(observation, dtype=np.float64), space)
    finally:
        env.close()
    return safe_set, space


def _try(safe_set: SafeSet, observation: Array, space: gym.spaces.Box) -> None:
    """Check the shapes of all that a safe set returns for one observation, and its box against the action space."""
    n = space.shape[0]
    observations = observation[None]
    G, h = (np.asarray(part) for part in safe_set.rows(observations))
    m = h.shape[-1] if h.ndim else 0
    wanted = {
        "low": (np.shape(safe_set.low), (n,)),
        "high": (np.shape(safe_set.high), (n,)),
        "rows(...)[1]": (h.shape, (1, m)),
        "rows(...)[0]": (G.shape, (1, m, n) if G.ndim == 3 else (m, n)),
        "fallback(...)": (np.shape(safe_set.fallback(observations)), (1, n)),
    }
    for field, (shape, expected) in wanted.items():
        if shape != expected:
            raise InvalidSetting(
                f"safe_set.{field}",
                f"has shape {shape} for one observation of shape {observation.shape}, expected {expected}",
                f"The environment has {n} actions; the shapes are those of envs.safe_set.SafeSet.",
            )
    executable = safe_set.executable(np.array(safe_set.fallback(observations), dtype=np.float64))
    if np.shape(executable) != (1, n):
        raise InvalidSetting(
            "safe_set.executable(...)",
            f"has shape {np.shape(executable)}",
            "Return as many actions as came in.",
        )
    # Bounds such as 0.1 differ between float32 and float64.
    slack = 1e-6 * np.maximum(1.0, np.abs(space.high - space.low))
    for field, outside in (
        ("low", safe_set.low < space.low - slack),
        ("high", safe_set.high > space.high + slack),
    ):
        if np.any(outside):
            raise InvalidSetting(
                f"safe_set.{field}",
                f"is {getattr(safe_set, field)}, outside the action space {space}",
                "Use the action space's bounds, or tighter ones.",
            )


def _stored(config: AlgorithmConfig) -> Store:
    if isinstance(config, OFF_POLICY):
        return "executed"
    if isinstance(config, ON_POLICY):
        return "sampled"
    raise InvalidSetting(
        "store",
        f"is missing, and {type(config).__name__} is neither SAC's nor PPO's nor IMPALA's",
        "Give 'sampled' if it learns on-policy from log-probabilities, 'executed' if it replays transitions.",
    )


def _add_layer(config: AlgorithmConfig, safe_set: SafeSet, stock: bool, mode: Mode) -> None:
    """Have `config` build `ProjectingSACModule`, or the user's own that derives from it."""
    spec = config._rl_module_spec or RLModuleSpec()
    if not stock or not isinstance(spec, RLModuleSpec):
        raise InvalidSetting(
            "layer", f"is True for {type(config).__name__}", "Only SAC's module has one; use layer=False."
        )
    if mode == "raw":
        raise InvalidSetting(
            "layer", "is True with mode='raw'", "Use it with 'repair', which executes projections."
        )
    if spec.module_class not in (None, DefaultSACTorchRLModule):
        if not issubclass(spec.module_class, ProjectingSACModule):
            raise InvalidSetting(
                "layer",
                f"is True, but the module is {spec.module_class.__name__}",
                "Derive it from ProjectingSACModule, or use layer=False.",
            )
    else:
        spec.module_class = ProjectingSACModule
    for field in ("env_to_module_connector", "learner_connector"):
        if getattr(config, f"_{field}") is not None:
            raise InvalidSetting(
                "layer",
                f"is True, but {field} is set and may change the observations that the safe set reads",
                "Leave it out, or use layer=False.",
            )
    given = spec.model_config or {}
    if not isinstance(given, dict):
        given = spec._get_model_config()
    spec.model_config = {**given, "safe_set": safe_set}
    config.rl_module(rl_module_spec=spec)
