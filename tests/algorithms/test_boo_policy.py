"""BOO's policy and the pointer network: graphs, layers and distributions against their definitions. No Ray."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from algorithms.baselines.pointer_network.policy import STOP, PointerPolicy, Selection
from algorithms.boo.graphs import GraphBatch, Messages
from algorithms.boo.policy import CutDistribution, CutPolicy, EdgeWeightedConv, _Product
from algorithms.boo.writer import FILE, CutWriter
from algorithms.common import checkpoint
from algorithms.common.checkpoint import CheckpointError
from envs.cutting_planes import Cut, GraphObservation, MasterSettings
from envs.cutting_planes.cuts import cut_rows
from envs.cutting_planes.graph import CONSTRAINT_FEATURES, VARIABLE_FEATURES
from envs.errors import InvalidSetting
from envs.job_shop import JobShopEnv
from envs.packing import Packing, PackingEnv, draw_packing, linearised

F_V, F_C = len(VARIABLE_FEATURES) + 5, len(CONSTRAINT_FEATURES)


def packing_graph(seed: int, items: int, cuts: int = 0, couplings: bool = True) -> GraphObservation:
    """A packing after some cuts."""
    env, rng = PackingEnv(items, cuts=3, couplings=couplings), np.random.default_rng(seed)
    graph = env.reset(seed=seed)[0]
    for _ in range(cuts):
        graph = env.step(rng.standard_normal(items + 1))[0]
    return graph


def graphs(couplings: bool = True) -> list[GraphObservation]:
    """Of different sizes, with 2, 0 and 1 of 3 cuts."""
    return [packing_graph(i, n, cuts, couplings) for i, (n, cuts) in enumerate(((5, 2), (8, 0), (3, 1)))]


def shop_graphs() -> list[GraphObservation]:
    """Masters where only some variables carry cuts."""
    out = []
    for jobs in (4, 7):
        env = JobShopEnv(jobs, months=8, copies=1, cuts=2)
        env.reset(seed=jobs)
        out.append(env.step(np.arange(jobs + 1.0))[0])
    return out


def policy_for(some: list[GraphObservation], kind: type = CutPolicy, **changes: Any) -> Any:
    torch.manual_seed(0)
    policy = kind(some[0].variables.shape[1], some[0].constraints.shape[1], width=16, rounds=3, **changes)
    with torch.no_grad():
        for parameter in policy.parameters():  # heads begin near zero, where errors would hide
            parameter += 0.1 * torch.randn(parameter.shape)
    return policy


def some_cuts(some: list[GraphObservation], seed: int = 0) -> list[Cut]:
    rng = np.random.default_rng(seed)
    return [Cut(rng.standard_normal(len(g.cut_variables)), float(rng.standard_normal())) for g in some]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- Graphs side by side --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "some", [graphs(), graphs(couplings=False), shop_graphs()], ids=["coupled", "plain", "shop"]
)
def test_a_batch_is_the_block_diagonal_matrix(some: list[GraphObservation]) -> None:
    batch = GraphBatch.of(some)
    n, m = [len(g.variables) for g in some], [len(g.constraints) for g in some]
    down, up, across = np.zeros((sum(m), sum(n))), np.zeros((sum(n), sum(m))), np.zeros((sum(n), sum(n)))
    for k, g in enumerate(some):
        v, c = sum(n[:k]), sum(m[:k])
        for (j, i), weight in zip(g.edges.T, g.edge_weights, strict=True):
            down[c + i, v + j] += weight / np.sum(g.edges[1] == i)
            up[v + j, c + i] += weight / np.sum(g.edges[0] == j)
        for (j, l), weight in zip(g.couplings.T, g.coupling_weights, strict=True):
            across[v + l, v + j] += weight
    for messages, dense in ((batch.to_constraints, down), (batch.to_variables, up)):
        np.testing.assert_allclose(messages.matrix.to_dense().numpy(), dense, rtol=1e-6)
        np.testing.assert_allclose(messages.transposed.to_dense().numpy(), dense.T, rtol=1e-6)
    if across.any():
        assert batch.couplings is not None
        np.testing.assert_allclose(batch.couplings.matrix.to_dense().numpy(), across, rtol=1e-6)
        np.testing.assert_allclose(batch.couplings.transposed.to_dense().numpy(), across.T, rtol=1e-6)
    else:
        assert batch.couplings is None
    members = range(len(some))
    assert batch.size == len(some)
    assert batch.variable_graph.tolist() == [k for k in members for _ in range(n[k])]
    assert batch.constraint_graph.tolist() == [k for k in members for _ in range(m[k])]
    assert batch.cut_graph.tolist() == [k for k in members for _ in some[k].cut_variables]
    assert batch.cut_variables.tolist() == [sum(n[:k]) + j for k in members for j in some[k].cut_variables]
    np.testing.assert_array_equal(batch.variables.numpy(), np.concatenate([g.variables for g in some]))
    np.testing.assert_array_equal(batch.constraints.numpy(), np.concatenate([g.constraints for g in some]))


@pytest.mark.parametrize(
    "some", [graphs(), graphs(couplings=False), shop_graphs()], ids=["coupled", "plain", "shop"]
)
def test_a_graph_in_a_batch_gets_what_it_gets_alone(some: list[GraphObservation]) -> None:
    policy, cuts = policy_for(some), some_cuts(some)
    distribution, values = policy(GraphBatch.of(some))
    together = (distribution.b, values, distribution.log_prob(cuts), distribution.entropy())
    w = distribution.w.split([len(g.cut_variables) for g in some])
    assert values.std() > 1e-3, "the graphs are not told apart"
    for k, graph in enumerate(some):
        alone, value = policy(GraphBatch.of([graph]))
        close(alone.w, w[k])
        own = (alone.b, value, alone.log_prob([cuts[k]]), alone.entropy())
        for a, b in zip(own, together, strict=True):
            close(a[0], b[k])


def test_a_master_without_couplings_does_not_notice_others_that_have_some() -> None:
    """A packing of one item has none, though its task shows them."""
    bare, coupled = packing_graph(0, 1), packing_graph(1, 6)
    assert len(bare.coupling_weights) == 0 < len(coupled.coupling_weights)
    policy = policy_for([bare])
    together, values = policy(GraphBatch.of([bare, coupled]))
    alone, value = policy(GraphBatch.of([bare]))
    close(values[:1], value)
    close(together.w[:1], alone.w)


def test_gradients_of_a_batch_are_the_sum_of_its_graphs() -> None:
    some = graphs()
    policy, cuts = policy_for(some), some_cuts(some)

    def gradients(chosen: list[int]) -> list[Tensor]:
        distribution, values = policy(GraphBatch.of([some[k] for k in chosen]))
        loss = (distribution.log_prob([cuts[k] for k in chosen]) + values**2).sum()
        return list(torch.autograd.grad(loss, list(policy.parameters())))

    together = gradients([0, 1, 2])
    for name, whole, *parts in zip(
        dict(policy.named_parameters()), together, *(gradients([k]) for k in range(3)), strict=True
    ):
        torch.testing.assert_close(
            whole, sum(parts), rtol=1e-3, atol=1e-4 * float(whole.abs().max()) + 1e-6, msg=name
        )


def relabelled(g: GraphObservation, order: np.ndarray) -> GraphObservation:
    """Variable ``order[j]`` of `g` is variable j; cuts weigh them in their new order."""
    place = np.argsort(order)
    cut = np.sort(place[g.cut_variables])
    shuffled = np.random.default_rng(0).permutation(
        len(g.edge_weights)
    )  # the order of edges is no matter either
    edges = np.stack([place[g.edges[0]], g.edges[1]])[:, shuffled]
    return replace(
        g, variables=g.variables[order], edges=edges, edge_weights=g.edge_weights[shuffled], cut_variables=cut,
        couplings=place[g.couplings],
    )  # fmt: skip


@pytest.mark.parametrize("some", [graphs(), shop_graphs()], ids=["packing", "shop"])
def test_names_of_variables_do_not_matter(some: list[GraphObservation]) -> None:
    policy = policy_for(some)
    for graph in some:
        order = np.random.default_rng(1).permutation(len(graph.variables))
        other = relabelled(graph, order)
        before, value = policy(GraphBatch.of([graph]))
        after, moved = policy(GraphBatch.of([other]))
        close(after.b, before.b)
        close(moved, value)
        of_variable = dict(zip(graph.cut_variables.tolist(), before.w.tolist(), strict=True))
        expected = [of_variable[int(order[j])] for j in other.cut_variables]
        close(after.w, torch.tensor(expected))
        assert before.w.std() > 1e-4, "weights that were all alike would be no evidence"


# --- Layers ---------------------------------------------------------------------------------------------------


def sparse(dense: Tensor) -> Messages:
    return Messages(dense.to_sparse_csr(), dense.T.to_sparse_csr())


def matrix(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(4, 6, generator=generator, dtype=dtype)
    return dense * (torch.rand(4, 6, generator=generator) < 0.5)


def test_the_product_has_the_gradient_of_a_product() -> None:
    dense = matrix()
    messages = sparse(dense)
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: _Product.apply(y, messages.matrix, messages.transposed), (x,))
    weight = torch.randn(4, 3, dtype=torch.float64)
    own = torch.autograd.grad((_Product.apply(x, messages.matrix, messages.transposed) * weight).sum(), x)
    expected = torch.autograd.grad(((dense @ x) * weight).sum(), x)
    torch.testing.assert_close(own, expected)


def test_the_layer_is_its_formula() -> None:
    """``W' sum_j e_ij x_j``, and nothing besides: a destination without edges receives 0."""
    torch.manual_seed(2)
    layer, dense = EdgeWeightedConv(5), matrix(3, torch.float32)
    dense[2] = 0.0
    x, V = torch.randn(6, 5), layer.received.weight.detach().numpy()
    assert [name for name, _ in layer.named_parameters()] == ["received.weight"]
    expected = np.zeros((4, 5))
    for i in range(4):
        for j in range(6):
            expected[i] += V @ (float(dense[i, j]) * x[j].numpy())
    found = layer(x, sparse(dense)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[2], np.zeros(5))
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("couplings", [True, False], ids=["coupled", "plain"])
def test_the_encoder_is_its_equations(couplings: bool) -> None:
    """The rounds of the module's docstring, on dense matrices."""
    graph = graphs(couplings)[0]
    policy, batch = policy_for([graph]), GraphBatch.of([graph])
    encoder = policy.encoder
    A, up = batch.to_constraints.matrix.to_dense(), batch.to_variables.matrix.to_dense()
    assert (batch.couplings is not None) == couplings
    n = len(batch.variables)
    Q = torch.zeros(n, n) if batch.couplings is None else batch.couplings.matrix.to_dense()
    v, c = encoder.variables(batch.variables).relu(), encoder.constraints(batch.constraints).relu()
    for U, W, down, back, across in zip(
        encoder.own_constraints, encoder.own_variables, encoder.to_constraints, encoder.to_variables,
        encoder.couplings, strict=True,
    ):  # fmt: skip
        c = c + (c @ U.weight.T + U.bias + (A @ v) @ down.received.weight.T).relu()
        received = (up @ c) @ back.received.weight.T + (Q @ v) @ across.received.weight.T
        v = v + (v @ W.weight.T + W.bias + received).relu()
    found = encoder(batch)
    close(found[0], v)
    close(found[1], c)


# --- The distribution of cuts ---------------------------------------------------------------------------------


def distribution(dtype: torch.dtype = torch.float32) -> CutDistribution:
    """Of three masters with 2, 4 and 1 weights."""
    generator = torch.Generator().manual_seed(4)
    return CutDistribution(
        torch.randn(7, generator=generator, dtype=dtype), torch.randn(3, generator=generator, dtype=dtype),
        torch.tensor([-0.5, 0.3], dtype=dtype), torch.tensor([0, 0, 1, 1, 1, 1, 2]), torch.ones(7, dtype=dtype),
    )  # fmt: skip


def test_densities_and_entropies_are_those_of_normals() -> None:
    d = distribution()
    cuts, log_prob = d.sample(torch.Generator().manual_seed(0))
    std = d.log_std.exp()
    sizes, start = [2, 4, 1], 0
    for k, size in enumerate(sizes):
        own = torch.distributions.Normal(d.w[start : start + size], std[0])
        bias = torch.distributions.Normal(d.b[k], std[1])
        w, b = torch.tensor(cuts[k].w, dtype=torch.float32), torch.tensor(cuts[k].b)
        assert cuts[k].w.shape == (size,)
        close(d.log_prob(cuts)[k], own.log_prob(w).sum() + bias.log_prob(b))
        close(d.entropy()[k], own.entropy().sum() + bias.entropy())
        start += size
    close(log_prob, d.log_prob(cuts))


def test_the_density_has_the_gradient_of_normals() -> None:
    d = distribution(torch.float64)
    w, b = d.w.clone() + 0.3, d.b.clone() - 0.7

    def density(mean: Tensor, bias: Tensor, log_std: Tensor) -> Tensor:
        return CutDistribution(mean, bias, log_std, d.graph, d.free)._density(w, b)

    def entropy(log_std: Tensor) -> Tensor:
        return CutDistribution(d.w, d.b, log_std, d.graph, d.free).entropy()

    inputs = tuple(t.clone().requires_grad_() for t in (d.w, d.b, d.log_std))
    assert torch.autograd.gradcheck(density, inputs)
    assert torch.autograd.gradcheck(entropy, inputs[2:])


def test_samples_are_fixed_by_their_generator_and_have_the_mean_and_deviation() -> None:
    d = distribution()
    one, again = (d.sample(torch.Generator().manual_seed(5)) for _ in range(2))
    other = d.sample(torch.Generator().manual_seed(6))
    np.testing.assert_array_equal(one[0][1].w, again[0][1].w)
    assert one[0][1].b == again[0][1].b
    assert not np.array_equal(one[0][1].w, other[0][1].w)
    generator, count = torch.Generator().manual_seed(7), 2000
    drawn = [d.sample(generator)[0] for _ in range(count)]
    w = np.array([np.concatenate([cut.w for cut in cuts]) for cuts in drawn])
    b = np.array([[cut.b for cut in cuts] for cuts in drawn])
    for values, mean, std in ((w, d.w, d.log_std.exp()[0]), (b, d.b, d.log_std.exp()[1])):
        np.testing.assert_allclose(values.mean(axis=0), mean.numpy(), atol=4.5 * float(std) / np.sqrt(count))
        np.testing.assert_allclose(values.std(axis=0), float(std), rtol=4.5 / np.sqrt(2 * count))
    assert abs(np.corrcoef(w[:, 0], w[:, 1])[0, 1]) < 4.5 / np.sqrt(count)


def test_a_fixed_variable_gets_the_mean_and_has_no_density() -> None:
    d = distribution()
    fixed = replace(d, free=torch.tensor([1.0, 0, 1, 1, 0, 1, 0]))
    cuts, log_prob = fixed.sample(torch.Generator().manual_seed(0))
    same, _ = d.sample(torch.Generator().manual_seed(0))
    drawn, others = (np.concatenate([cut.w for cut in some]) for some in (cuts, same))
    kept = fixed.free.numpy() == 0
    np.testing.assert_array_equal(drawn[kept], d.w.numpy()[kept])
    np.testing.assert_array_equal(drawn[~kept], others[~kept])
    std, bias = d.log_std.exp(), torch.tensor([cut.b for cut in cuts])
    own = (
        torch.distributions.Normal(d.w, std[0]).log_prob(torch.tensor(drawn, dtype=torch.float32))
        * fixed.free
    )
    expected = torch.distributions.Normal(d.b, std[1]).log_prob(bias).index_add(0, d.graph, own)
    close(log_prob, expected)
    one = torch.distributions.Normal(0.0, std).entropy()
    close(fixed.entropy(), one[1] + one[0] * torch.tensor([1.0, 3.0, 0.0]))


def test_a_policy_leaves_fixed_variables_alone() -> None:
    """In a job shop: the weights of jobs that cannot be finished any more."""
    env = JobShopEnv(
        12, copies=1, months=7, replan="cut", observe="jobs", settings=MasterSettings("highs", time_limit=0.0)
    )
    graph, _ = env.reset(seed=0)
    policy = CutPolicy(env.observation_space.variable_features, F_C)
    able = env.planner.model.program.high[:12] > 0
    assert able.any()
    assert not able.all()
    np.testing.assert_array_equal(policy(GraphBatch.of([graph]))[0].free.numpy() > 0, able)


def test_the_mode_is_the_mean_and_leaves_the_policy_its_gradient() -> None:
    d = distribution()
    for cut, w, b in zip(d.mode(), d.w.split([2, 4, 1]), d.b, strict=True):
        np.testing.assert_array_equal(cut.w, w.numpy())
        assert cut.b == float(b)
    assert (d.log_prob(d.mode()) >= d.log_prob(d.sample(torch.Generator().manual_seed(0))[0])).all()


# --- What a policy begins with --------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [4, 40])
def test_a_later_cut_supersedes_the_first_until_learning_finds_better(items: int) -> None:
    def binding(supersede: float) -> int:
        torch.manual_seed(1)
        writer = CutWriter(CutPolicy(F_V, F_C, supersede=supersede))
        env = PackingEnv(items, cuts=2, couplings=True)
        graph, _ = env.reset(seed=0)
        cuts = []
        for _ in range(2):
            cut = writer([graph])[0]
            cuts.append(cut.normalised())
            graph = env.step(cut)[0]
        rows = cut_rows(cuts, np.zeros(items), np.zeros(items), np.ones(items))
        if len(rows.biases) == 1:
            direction = cuts[1].w / np.linalg.norm(cuts[1].w)
            np.testing.assert_allclose(rows.weights[0] / np.linalg.norm(rows.weights[0]), direction)
        return len(rows.biases)

    assert binding(supersede=2.0) == 1
    assert binding(supersede=0.0) == 2


def test_the_bias_falls_with_the_cuts_made_and_with_the_number_of_weights() -> None:
    some = graphs()
    torch.manual_seed(0)
    with_slope, without = CutPolicy(F_V, F_C, supersede=1.5), CutPolicy(F_V, F_C, supersede=0.0)
    without.load_state_dict(with_slope.state_dict())
    fall = without(GraphBatch.of(some))[0].b - with_slope(GraphBatch.of(some))[0].b
    close(fall, 1.5 * torch.tensor([5.0 * 2, 8.0 * 0, 3.0 * 1]))


def test_weights_begin_around_the_prior() -> None:
    """The heads begin near zero: with a prior of 1 every weight is positive, whose sum a solver would maximise."""
    some = graphs()
    torch.manual_seed(0)
    greedy, none = CutPolicy(F_V, F_C, prior=1.0), CutPolicy(F_V, F_C)
    assert abs(none(GraphBatch.of(some))[0].w).max() < 0.5 < greedy(GraphBatch.of(some))[0].w.min()
    none.load_state_dict(greedy.state_dict())
    close(none(GraphBatch.of(some))[0].w, greedy(GraphBatch.of(some))[0].w)
    with torch.no_grad():
        none.weight.bias -= 1.0
    close(none(GraphBatch.of(some))[0].w, greedy(GraphBatch.of(some))[0].w - 1.0)


# --- Deployment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CutPolicy, PointerPolicy])
def test_a_policy_that_was_saved_writes_the_same_cuts(kind: type, tmp_path: Path) -> None:
    some = graphs()
    writer = CutWriter(policy_for(some, kind), "solverl/Packing-v0", {"items": 8, "cuts": 2})
    writer.save(tmp_path)
    checkpoint.seal(tmp_path)
    loaded = CutWriter.from_checkpoint(tmp_path)
    assert type(loaded.policy) is kind
    assert (loaded.env, loaded.env_config) == ("solverl/Packing-v0", {"items": 8, "cuts": 2})
    for a, b in zip(writer(some), loaded(some), strict=True):
        np.testing.assert_array_equal(a.w, b.w)
        assert a.b == b.b


def test_a_damaged_or_foreign_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    CutWriter(policy_for(graphs())).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"no MANIFEST\.json"):
        CutWriter.from_checkpoint(tmp_path)
    checkpoint.seal(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for damage, words in (
        (whole[: len(whole) // 2], r"cut_policy\.pkl has \d+ bytes instead of \d+"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), r"contents of .*cut_policy\.pkl are damaged"),
    ):
        (tmp_path / FILE).write_bytes(damage)
        with pytest.raises(CheckpointError, match=words):
            CutWriter.from_checkpoint(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(CheckpointError, match=r"cut_policy\.pkl is missing"):
        CutWriter.from_checkpoint(tmp_path)
    checkpoint.seal(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no cut_policy\.pkl"):
        CutWriter.from_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="not a folder"):
        CutWriter.from_checkpoint(tmp_path / "nowhere")


def test_weights_that_became_nan_are_named_before_anything_is_solved() -> None:
    some = graphs()
    for place, words in (("weight", r"(?s)w: is nan at index 0.*nothing was solved"), ("bias", "b: is nan")):
        policy = policy_for(some)
        with torch.no_grad():
            getattr(policy, place).bias[0] = float("nan")
        with pytest.raises(InvalidSetting, match=words):
            CutWriter(policy)(some)


def test_a_writer_plays_an_episode_without_ray() -> None:
    code = """if True:
        import sys
        from algorithms.boo.policy import CutPolicy
        from algorithms.boo.writer import CutWriter
        from envs.packing import PackingEnv
        env = PackingEnv(6, cuts=2)
        writer = CutWriter(CutPolicy(env.observation_space.variable_features, 5))
        graph, _ = env.reset(seed=0)
        over = False
        while not over:
            graph, _, over, _, info = env.step(writer([graph])[0])
        assert env.feasibility.checked == 2 and env.feasibility.infeasible == 0
        assert 'ray' not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)


# --- The pointer network --------------------------------------------------------------------------------------


def tiny(items: int, seed: int, p: float | None = None) -> tuple[Packing, GraphObservation]:
    instance = draw_packing(np.random.default_rng(seed), items)
    instance = instance if p is None else replace(instance, p=p)
    return instance, PackingEnv(items, cuts=1, couplings=True).reset(options={"instance": instance})[0]


def test_a_replayed_selection_has_the_probability_it_was_drawn_with() -> None:
    some = [tiny(n, n)[1] for n in (3, 9, 6)]
    policy = policy_for(some, PointerPolicy)
    distribution, _ = policy(GraphBatch.of(some))
    generator = torch.Generator().manual_seed(0)
    ends = set()
    for _ in range(20):
        cuts, log_prob = distribution.sample(generator)
        torch.testing.assert_close(distribution.log_prob(cuts), log_prob, rtol=1e-4, atol=1e-5)
        ends.add(cuts[1].order[-1] == STOP)  # type: ignore[attr-defined]
    assert ends == {True, False}, "some stop, some point at what does not fit"


@pytest.mark.parametrize("beside", [(), (4,), (9, 12)])
def test_a_selection_can_be_replayed_beside_others(beside: tuple[int, ...]) -> None:
    """Minibatches are not the batches that were drawn: packings of other sizes stand beside each."""
    some = [tiny(n, n)[1] for n in (3, 9, 6)]
    policy = policy_for(some, PointerPolicy)
    cuts, log_prob = policy(GraphBatch.of(some))[0].sample(torch.Generator().manual_seed(0))
    others = [tiny(n, n)[1] for n in beside]
    fill, _ = (
        policy(GraphBatch.of(others))[0].sample(torch.Generator().manual_seed(1)) if others else ([], None)
    )
    for graph, cut, expected in zip(some, cuts, log_prob, strict=True):
        replayed = policy(GraphBatch.of([graph, *others]))[0].log_prob([cut, *fill])
        torch.testing.assert_close(replayed[0], expected, rtol=1e-4, atol=1e-5)


def test_an_order_ends_with_the_same_mark_where_the_network_stopped_whatever_stood_beside() -> None:
    """Replaying it beside others depends on that: the column of stopping is not an item's number."""
    some = [tiny(n, n)[1] for n in (3, 9)]
    policy = policy_for(some, PointerPolicy)
    generator = torch.Generator().manual_seed(0)
    orders = []
    for _ in range(30):
        orders.append([cut.order for cut in policy(GraphBatch.of(some))[0].sample(generator)[0]])
    for n, of_packing in zip((3, 9), zip(*orders, strict=True), strict=True):
        assert min(order[-1] for order in of_packing) == STOP == -1
        for order in of_packing:
            assert max(order) < n
            assert STOP not in order[:-1]


@pytest.mark.parametrize("p", [0.0, 0.9, 1e9])
def test_the_probabilities_of_all_sequences_add_up_to_one(p: float) -> None:
    instance, graph = tiny(3, 1, p)
    policy = policy_for([graph], PointerPolicy)
    distribution, _ = policy(GraphBatch.of([graph]))
    orders: list[tuple[int, ...]] = []

    def extend(order: tuple[int, ...], room: float) -> None:
        orders.append((*order, STOP))
        for j in set(range(3)) - set(order):
            if instance.k[j] <= room:
                extend((*order, j), room - instance.k[j])
            else:
                orders.append((*order, j))  # it does not fit, and ends the selection

    extend((), instance.p)
    assert len(orders) == {0.0: 4, 1e9: 16}.get(p, len(orders))
    blank = -np.ones(3)
    total = sum(distribution.log_prob([Selection(blank, 0.0, order)]).exp().item() for order in orders)
    assert total == pytest.approx(1.0, abs=1e-5)
    seen = {distribution.sample(torch.Generator().manual_seed(s))[0][0].order for s in range(200)}  # type: ignore[attr-defined]
    assert seen <= set(orders)


def test_sequences_are_drawn_as_often_as_their_probability_says() -> None:
    _, graph = tiny(3, 1, 0.9)
    policy = policy_for([graph], PointerPolicy)
    distribution, _ = policy(GraphBatch.of([graph] * 4000))
    cuts, _ = distribution.sample(torch.Generator().manual_seed(0))
    probabilities = distribution.log_prob(cuts).exp().tolist()
    orders = [cut.order for cut in cuts]  # type: ignore[attr-defined]
    assert len(set(orders)) > 3
    for order in set(orders):
        p, share = probabilities[orders.index(order)], orders.count(order) / 4000
        assert abs(share - p) < 4.5 * np.sqrt(p * (1 - p) / 4000) + 1e-6, order


def test_selections_fit_and_are_what_the_environment_packs() -> None:
    instances, some = zip(*(tiny(n, seed) for seed, n in enumerate((4, 7, 10, 10))), strict=True)
    policy = policy_for(list(some), PointerPolicy)
    distribution, _ = policy(GraphBatch.of(some))
    generator = torch.Generator().manual_seed(1)
    for cuts in (distribution.mode(), *(distribution.sample(generator)[0] for _ in range(5))):
        for instance, cut in zip(instances, cuts, strict=True):
            n = len(instance)
            assert isinstance(cut, Selection)
            *taken, last = cut.order
            chosen = (cut.w > 0).astype(float)
            assert cut.w.shape == (n,)
            assert set(cut.w) <= {-1.0, 1.0}
            assert sorted(taken) == np.flatnonzero(chosen).tolist()
            assert instance.violation(chosen) <= 1e-6
            assert last == STOP or instance.k[taken].sum() + instance.k[last] > instance.p - 1e-6
            env = PackingEnv(n, cuts=1, couplings=True)
            env.reset(options={"instance": instance})
            _, reward, over, _, _ = env.step(cut)
            assert over
            np.testing.assert_array_equal(env.plan, chosen)
            assert reward == pytest.approx(
                instance.objective(chosen) / instance.objective(linearised(instance))
            )


def test_the_item_that_does_not_fit_ends_the_selection_and_is_left_out() -> None:
    instance, graph = tiny(4, 2, 0.0)
    policy = policy_for([graph], PointerPolicy)
    distribution, _ = policy(GraphBatch.of([graph]))
    for seed in range(20):
        (cut,), _ = distribution.sample(torch.Generator().manual_seed(seed))
        assert len(cut.order) == 1  # type: ignore[attr-defined]
        np.testing.assert_array_equal(cut.w, -np.ones(4))
    assert instance.violation(np.zeros(4)) == 0.0


def test_a_network_that_does_not_care_draws_uniformly_from_what_is_left() -> None:
    """With room for everything: all three items and then the stop come with 3/4 2/3 1/2 1."""
    _, graph = tiny(3, 2, 1e2)
    policy, count = policy_for([graph], PointerPolicy), 3000
    with torch.no_grad():
        for parameter in policy.queries[-1].parameters():
            parameter.zero_()
    distribution, _ = policy(GraphBatch.of([graph] * count))
    cuts, log_prob = distribution.sample(torch.Generator().manual_seed(0))
    assert all(cut.order[-1] == STOP for cut in cuts)  # type: ignore[attr-defined]
    full = np.array([bool((cut.w > 0).all()) for cut in cuts])
    assert abs(full.mean() - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / count)
    np.testing.assert_allclose(log_prob.numpy()[full], np.log(1 / 24), rtol=1e-5)


def test_the_entropy_is_that_of_the_first_choice_and_no_item_is_chosen_twice() -> None:
    some = [tiny(3, 3)[1], tiny(6, 4)[1]]
    policy = policy_for(some, PointerPolicy)
    distribution, _ = policy(GraphBatch.of(some))
    for k, n in enumerate((3, 6)):
        alone, _ = policy(GraphBatch.of([some[k]]))
        first = [
            float(alone.log_prob([Selection(np.ones(n), 0.0, (j,))]).exp().detach())
            for j in (*range(n), STOP)
        ]
        assert sum(first) == pytest.approx(1.0, abs=1e-5)
        entropy = torch.distributions.Categorical(torch.tensor(first)).entropy()
        close(distribution.entropy()[k].detach(), entropy)
    cuts, _ = distribution.sample(torch.Generator().manual_seed(0))
    for cut in cuts:
        order = cut.order  # type: ignore[attr-defined]
        assert len(set(order)) == len(order)


def test_the_pointer_networks_gradient_is_that_of_its_density() -> None:
    """Along one direction of all weights, by central differences."""
    some = [tiny(4, 5)[1], tiny(6, 6)[1]]
    policy = policy_for(some, PointerPolicy)
    cuts, _ = policy(GraphBatch.of(some))[0].sample(torch.Generator().manual_seed(3))
    parameters = list(policy.parameters())
    generator = torch.Generator().manual_seed(4)
    direction = [torch.randn(p.shape, generator=generator) for p in parameters]
    length = float(torch.sqrt(sum((d**2).sum() for d in direction)))
    direction = [d / length for d in direction]

    def density() -> Tensor:
        total: Tensor = policy(GraphBatch.of(some))[0].log_prob(cuts).sum()
        return total

    gradients = torch.autograd.grad(density(), parameters, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True) if g is not None)
    values, step = [], 3e-3
    for sign in (1.0, -2.0):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * step * d
            values.append(float(density()))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-2)


def test_a_packing_gets_the_same_selection_beside_larger_ones() -> None:
    some = [tiny(n, n)[1] for n in (2, 5, 8)]
    policy = policy_for(some, PointerPolicy)
    distribution, values = policy(GraphBatch.of(some))
    for graph, mode, value in zip(some, distribution.mode(), values, strict=True):
        alone, own = policy(GraphBatch.of([graph]))
        np.testing.assert_array_equal(alone.mode()[0].w, mode.w)
        close(own[0], value)
