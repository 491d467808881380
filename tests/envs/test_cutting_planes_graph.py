"""Observations as graphs: features by hand, and spaces that survive Gymnasium's vectorisation and RLlib's runners."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from envs.cutting_planes import (
    Couplings,
    Cut,
    CutProblem,
    CutSpace,
    CuttingPlaneEnv,
    GraphObservation,
    GraphSpace,
)
from envs.cutting_planes.graph import LARGEST, BatchedObjects, GraphBuilder
from envs.errors import InvalidSetting
from envs.packing import PackingEnv
from solver_pool.problem import MixedIntegerProgram

INF = np.inf


def program() -> MixedIntegerProgram:
    """Rows: ``x + 4 y <= 8``, ``2 x - z >= -6``, ``y + z = 3``, ``1 <= x + y <= 2``."""
    return MixedIntegerProgram(
        c=np.zeros(3),
        A=np.array([[1.0, 4, 0], [2, 0, -1], [0, 1, 1], [1, 1, 0]]),
        row_low=np.array([-INF, -6, 3, 1]),
        row_high=np.array([8, INF, 3, 2]),
        low=np.array([0.0, 0, -INF]),
        high=np.array([1.0, 5, INF]),
        integer=np.array([True, True, False]),
    )


def test_a_row_without_coefficients_says_nothing() -> None:
    empty = replace(
        program(), A=np.zeros((1, 3)), row_low=np.array([-INF]), row_high=np.array([24.0]), low=np.zeros(3)
    )
    graph = GraphBuilder(empty, np.array([0]), np.zeros((3, 0))).observe(np.zeros(3), [], of=1)
    np.testing.assert_array_equal(graph.constraints, 0.0)


def test_features_by_hand() -> None:
    features = np.array([[7.0], [8], [9]])
    builder = GraphBuilder(program(), np.array([0, 1]), features)
    plan, cuts = np.array([1.0, 1, 2]), [Cut(np.array([2.0, -6]), 1.0), Cut(np.array([0.0, 0]), 0.0)]
    graph = builder.observe(plan, cuts, of=4)
    np.testing.assert_array_equal(
        graph.variables,
        [[0, 1, 1, 0.5, 1, 1, 7], [0, 5, 1, 0.5, 1, 1, 8], [-LARGEST, LARGEST, 2, 0.5, 0, 0, 9]],
    )
    expected = [
        [8 / 5, 5 / 5, 3 / 5, 0, 0],
        [6 / 3, 0 / 3, 6 / 3, 0, 0],  # turned around: -2 x + z <= 6
        [3 / 2, 3 / 2, 0, 0, 1],
        [2 / 2, 2 / 2, 0, 0, 0],
        [1 / 8, -4 / 8, 0, 1, 0],  # the cut that binds: 1 + 2 - 6 = -3
        [0, 0, LARGEST, 1, 0],  # a cut without weights has no scale
    ]
    np.testing.assert_allclose(graph.constraints, np.array(expected, dtype=np.float32), rtol=1e-6)
    weights = np.zeros((3, 6))
    weights[graph.edges[0], graph.edges[1]] = graph.edge_weights
    np.testing.assert_allclose(
        weights.T, [[0.25, 1, 0], [-1, 0, 0.5], [0, 1, 1], [1, 1, 0], [1 / 3, -1, 0], [0, 0, 0]], rtol=1e-6
    )
    assert graph.edges.shape == (2, 8 + 4)
    assert [a.dtype for a in (graph.variables, graph.edges, graph.edge_weights)] == [
        "float32",
        "int64",
        "float32",
    ]
    assert GraphSpace(7).contains(graph)
    np.testing.assert_array_equal(builder.observe(plan, (), of=4).constraints, graph.constraints[:4])


def test_extreme_cuts_give_finite_observations() -> None:
    builder = GraphBuilder(program(), np.array([0, 1]), np.zeros((3, 0)))
    for w, b in (([1e12, 1e-12], -1e12), ([1e300, 1], 1e300), ([5e-324, 0], 1e300)):
        graph = builder.observe(np.ones(3), [Cut(np.array(w), b), Cut(np.zeros(2), -1e300)], of=2)
        assert GraphSpace(6).contains(graph)


def test_features_must_fit() -> None:
    for wrong in (np.zeros((2, 1)), np.zeros(3), np.full((3, 1), np.nan)):
        with pytest.raises(InvalidSetting, match="features: have shape"):
            GraphBuilder(program(), np.array([0]), wrong)


def changed(graph: GraphObservation, **changes: object) -> GraphObservation:
    out = copy.copy(graph)
    for name, value in changes.items():
        object.__setattr__(out, name, value)
    return out


def test_a_space_knows_its_own() -> None:
    space = GraphSpace(8, seed=0)
    graph = space.sample()
    assert space.contains(graph)
    assert not GraphSpace(7).contains(graph)
    assert not GraphSpace(8, 4).contains(graph)
    assert not space.contains(graph.variables)
    nan = graph.variables.copy()
    nan[0, 0] = np.nan
    for wrong in (
        changed(graph, variables=nan),
        changed(graph, edges=graph.edges + 9),
        changed(graph, edges=graph.edges[:, 1:]),
        changed(graph, cut_variables=np.array([-1])),
        changed(graph, couplings=np.array([[0], [99]]), coupling_weights=np.ones(1, dtype=np.float32)),
    ):
        assert not space.contains(wrong)
    again = GraphSpace(8, seed=0)
    assert again.sample() == graph
    assert again.sample() != graph
    assert again == space != GraphSpace(7)
    assert pickle.loads(pickle.dumps(space)) == space
    assert pickle.loads(pickle.dumps(graph)) == graph
    assert CutSpace(3).contains(CutSpace(4).sample())
    assert not CutSpace(3).contains(np.ones(4))


def test_batches_keep_each_object_whole() -> None:
    for space in (GraphSpace(8, seed=1), CutSpace(3, seed=1)):
        batched = batch_space(space, 5)
        items = [space.sample() for _ in range(5)]
        out = create_empty_array(space, 5)
        joined = concatenate(space, items, out)
        assert joined.shape == (5,)
        assert joined.dtype == np.object_
        assert all(one is other for one, other in zip(joined, items, strict=True))
        assert concatenate(space, items[::-1], out) is not joined, "the last step's batch must not change"
        assert joined[0] is items[0]
        assert isinstance(batched, BatchedObjects)
        assert batched.contains(joined)
        assert batched.contains(batched.sample())
        assert not batched.contains(joined[:4])
        assert list(iterate(batched, joined)) == items
        assert pickle.loads(pickle.dumps(batched)) == batched


def packing() -> PackingEnv:
    return PackingEnv((4, 9), cuts=2, couplings=True)


@pytest.mark.parametrize("vectorise", [SyncVectorEnv, AsyncVectorEnv])
def test_vector_environments_do_not_mix_instances(vectorise: type) -> None:
    options = {"shared_memory": False} if vectorise is AsyncVectorEnv else {}
    vector, alone = vectorise([packing] * 3, **options), [packing() for _ in range(3)]
    observations, _ = vector.reset(seed=5)
    expected = [env.reset(seed=5 + i)[0] for i, env in enumerate(alone)]
    assert list(observations) == expected
    assert len({len(graph.variables) for graph in expected}) > 1
    rng = np.random.default_rng(0)
    for _ in range(2):
        actions = np.empty(3, dtype=object)
        for i, env in enumerate(alone):
            actions[i] = Cut(rng.standard_normal(env.action_space.size), 0.0)
        observations, rewards, over, _, _ = vector.step(actions)
        steps = [env.step(action) for env, action in zip(alone, actions, strict=True)]
        assert list(observations) == [step[0] for step in steps]
        np.testing.assert_array_equal(rewards, [step[1] for step in steps])
    assert over.all()
    vector.close()


def test_couplings_are_edges_between_variables() -> None:
    pairs = Couplings(np.array([[0, 1], [1, 0]]), np.array([0.5, 0.5]))
    problem = CutProblem.of_model(
        MixedIntegerProgram(
            np.zeros(2),
            np.ones((1, 2)),
            np.array([-INF]),
            np.ones(1),
            np.zeros(2),
            np.ones(2),
            np.ones(2, bool),
        ),
        lambda plan: float(plan.sum()),
    )
    env = CuttingPlaneEnv(replace(problem, couplings=pairs))
    graph = env.reset()[0]
    np.testing.assert_array_equal(graph.couplings, pairs.edges)
    np.testing.assert_array_equal(graph.coupling_weights, pairs.weights.astype(np.float32))
