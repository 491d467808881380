"""Every knob of SafeQ."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from algorithms.omlt_ddpg.config import OMLTDDPGConfig
from algorithms.safe_q.exploration import RandomChords
from algorithms.safe_q.learner import SafeQLearner
from algorithms.safe_q.maximisers import SELECTIONS, Selection
from algorithms.safe_q.rl_module import SafeQModule
from solver_pool.options import SolveOptions

WITHOUT_ACTOR = (
    "actor_lr", "actor_hidden", "actor_updates", "warm_up", "refresh", "constraint_lag", "deployed_rate",
)  # fmt: skip
"""Settings of OMLT-DDPG that mean nothing here."""


class SafeQConfig(OMLTDDPGConfig):
    """OMLT-DDPG's knobs without the actor's, and `selection`.

    Example::

        config = (
            SafeQConfig()
            .environment("solverl/Tracking-v0")
            .training(selection="constrained", gamma=0.9)
            .safety(exploration=RandomChords(steps=1_500, seed=1))
            .debugging(seed=1)
        )
        algorithm = config.build_algo()
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from algorithms.safe_q.safe_q import SafeQ

        super().__init__(algo_class=algo_class or SafeQ)
        self.selection: Selection = "constrained"
        self.shield = "repair"
        self.exploration = RandomChords()
        self.reward_key = None
        # The maximum of the mean over critics is what the solver finds: equation (14) as it stands.
        self.pessimism = 0.0
        self.tau = 0.01
        self.train_batch_size_per_learner = 64
        self.solve_options = SolveOptions(tolerance=1e-6, n_starts=2)

    def training(  # type: ignore[override]
        self, *, selection: Selection = NotProvided, **kwargs: Any
    ) -> SafeQConfig:
        """Set the algorithm's parameters.

        Args:
            selection: of safe actions, for the TD target and to act. ``"constrained"`` takes the maximum of `Q` under
                the rows, equation (14) of seed 002; ``"projected"`` takes it in the box and projects it on the rows,
                equation (12), which loses optimality.
            kwargs: as of `OMLTDDPGConfig.training`, without what belongs to the actor.
        """
        for name in WITHOUT_ACTOR:
            if name in kwargs:
                self._value_error(f"{name}: is {kwargs[name]}, but SafeQ has no actor. Leave it out.")
        super().training(**kwargs)
        if selection is not NotProvided:
            self.selection = selection
        return self

    def validate(self) -> None:
        """Check every field before anything is built; the error names field, value and remedy."""
        super().validate()
        if self.selection not in SELECTIONS:
            self._value_error(f"selection: is {self.selection!r}; use one of {', '.join(SELECTIONS)}.")
        if self.shield != "repair":
            self._value_error(f"shield: is {self.shield!r}; SafeQ executes nothing unsafe, use 'repair'.")

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=SafeQModule)

    def get_default_learner_class(self) -> type:
        return SafeQLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        included: dict[str, Any] = super()._model_config_auto_includes
        safe_set, _ = self.probed()
        return included | {
            "safe_set": safe_set,
            "selection": self.selection,
            "solve_options": self.solve_options,
        }
