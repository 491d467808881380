"""The adapter borrows OR-Gym without leaving a trace in the process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from envs.adapters import or_gym as adapter
from envs.inventory import DEFAULT


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_modules_registry_and_numpy_are_as_before() -> None:
    run(
        """
import sys, gymnasium, numpy as np
import envs.adapters.or_gym as adapter
registered, names = set(gymnasium.registry), set(dir(np))
marker = sys.modules["gym"] = type(sys)("gym")
adapter.OrGymInventory().reset(seed=0)
assert sys.modules["gym"] is marker
assert not [m for m in sys.modules if m.split(".")[0] == "or_gym"]
assert set(gymnasium.registry) == registered
assert set(dir(np)) == names
"""
    )


def test_no_global_generator_is_touched() -> None:
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random(4)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    env = adapter.OrGymInventory()
    env.reset(seed=1)
    env.step(np.ones(3))
    np.testing.assert_array_equal(np.random.random(4), expected)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    with adapter.numpy_global_generator_kept():
        original = adapter.make_original(DEFAULT, dist=1)
        original.reset()
        original.step(np.ones(3))
    np.testing.assert_array_equal(np.random.random(4), expected)  # noqa: NPY002


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install --no-deps or-gym==0\.5\.0"):
        adapter.load_or_gym.__wrapped__()
