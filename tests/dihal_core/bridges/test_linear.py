import numpy as np
import pytest
import torch

from dihal_core.bridges.linear import CrossSums, GramSums, RidgeBase, fit_ridge, lagged, narrowed
from dihal_core.errors import NumericsError

D, J = 24, 3


def reference_fit(x_NF: np.ndarray, y_ND: np.ndarray, relative_penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Textbook ridge with an intercept, in float64."""
    x, y = x_NF - x_NF.mean(0), y_ND - y_ND.mean(0)
    gram = x.T @ x
    weight = np.linalg.solve(gram + relative_penalty * np.diag(gram).mean() * np.eye(len(gram)), x.T @ y)
    return weight, y_ND.mean(0) - x_NF.mean(0) @ weight


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    condition = torch.randn(60, 40, D, generator=generator) @ (torch.randn(D, D, generator=generator) / D**0.5)
    truth = RidgeBase(D, J)
    truth.weight_FD.copy_(torch.randn(J * D, D, generator=generator) / (J * D) ** 0.5)
    target = truth(condition) + 0.5 * torch.randn(60, 40, D, generator=generator) + 0.3
    lengths = torch.randint(10, 41, (60,), generator=generator)
    t = torch.arange(40)
    mask = (t >= 1) & (t < lengths[:, None])
    return condition, target, mask


def fitted(data, dtype):
    condition, target, mask = data
    gram, cross = GramSums(J * D, condition.device), CrossSums(D, J, condition.device, dtype)
    for chunk in range(0, 60, 7):
        c, y, m = condition[chunk : chunk + 7], target[chunk : chunk + 7], mask[chunk : chunk + 7]
        gram.add(lagged(c, J)[m])
        cross.add(c, y * m[..., None])
    return fit_ridge(gram.factorise(1e-3), cross)


def test_lagged_features_see_the_own_and_earlier_positions_only():
    x = torch.arange(1.0, 5.0).reshape(1, 4, 1)
    assert lagged(x, 3)[0].tolist() == [[1, 0, 0], [2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_the_fit_equals_textbook_ridge_with_intercept(data):
    condition, target, mask = data
    base = fitted(data, torch.float32)
    weight, bias = reference_fit(lagged(condition, J)[mask].double().numpy(), target[mask].double().numpy(), 1e-3)
    assert np.allclose(base.weight_FD.numpy(), weight, atol=1e-4)
    assert np.allclose(base.bias_D.numpy(), bias, atol=1e-5)
    predicted = lagged(condition, J).double().numpy() @ weight + bias
    assert np.allclose(base(condition).numpy(), predicted, atol=2e-4)


def test_bfloat16_products_move_the_unexplained_variance_by_less_than_1e_4(data):
    condition, target, mask = data
    exact, fast = fitted(data, torch.float32), fitted(data, torch.bfloat16)

    def unexplained(base):
        y = target[mask].double()
        return float((base(condition)[mask].double() - y).square().sum() / (y - y.mean(0)).square().sum())

    assert abs(unexplained(fast) - unexplained(exact)) < 1e-4
    assert 0.1 < unexplained(exact) < 0.6


def test_masked_targets_and_what_follows_them_do_not_count(data):
    condition, target, mask = data
    changed = target.clone()
    changed[~mask] = 1e6
    after = fitted((condition, changed, mask), torch.float32)
    assert torch.equal(after.weight_FD, fitted(data, torch.float32).weight_FD)


def test_the_base_is_frozen_and_causal(data):
    condition, _, _ = data
    base = fitted(data, torch.float32)
    assert not list(base.parameters())
    assert torch.equal(base(condition)[:, :9], base(condition[:, :9]))


def test_a_gram_matrix_without_rows_is_refused():
    with pytest.raises(NumericsError, match="raise bridge.ridge_penalty"):
        GramSums(4, torch.device("cpu")).factorise(1e-3)


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_the_map_on_fewer_tokens_is_the_ridge_of_these_features_with_the_same_penalty(data, tokens):
    condition, target, mask = data
    gram, cross = GramSums(J * D, condition.device), CrossSums(D, J, condition.device, torch.float32)
    gram.add(lagged(condition, J)[mask])
    cross.add(condition, target * mask[..., None])
    factor = gram.factorise(1e-3)
    found = narrowed(fit_ridge(factor, cross), factor, tokens)
    x_NF, y_ND = (values[mask].double().numpy() for values in (lagged(condition, tokens), target))
    x, y = x_NF - x_NF.mean(0), y_ND - y_ND.mean(0)
    weight = np.linalg.solve(x.T @ x + factor.penalty * np.eye(tokens * D), x.T @ y)
    assert found.tokens == tokens
    assert found.weight_FD.numpy() == pytest.approx(weight, rel=1e-3, abs=1e-4)
    assert found.bias_D.numpy() == pytest.approx(y_ND.mean(0) - x_NF.mean(0) @ weight, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("tokens", [0, J + 1])
def test_a_map_on_more_tokens_than_its_base_is_refused(data, tokens):
    condition, target, mask = data
    gram, cross = GramSums(J * D, condition.device), CrossSums(D, J, condition.device, torch.float32)
    gram.add(lagged(condition, J)[mask])
    cross.add(condition, target * mask[..., None])
    factor = gram.factorise(1e-3)
    with pytest.raises(ValueError, match=r"outside 1\.\.3"):
        narrowed(fit_ridge(factor, cross), factor, tokens)
