import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import Ridge

from plasticity_lightning.readouts import (
    READOUTS,
    AdadeltaReadout,
    LBFGSReadout,
    RidgeReadout,
    soft_cross_entropy,
    soft_targets,
)

SHORT = {"adadelta": {"epochs": 8, "batch_size": 30}, "lbfgs": {"max_steps": 8}, "ridge": {}}


def problem(dtype=torch.float32, n_items=200, n=6, n_classes=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n_items + 80, n, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(n_items + 80, n_classes, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(n, n_classes, generator=generator, dtype=torch.float64) + noise).argmax(dim=1)
    x = x.to(dtype)
    return x[:n_items], y[:n_items], x[n_items:], y[n_items:], n_classes


def run(solver, steps=None):
    records = []
    while not solver.done and (steps is None or len(records) < steps):
        records.append(solver.step())
    return records


def test_adadelta_is_torch_adadelta_on_autograd_after_400_updates():
    data = problem(torch.float64)
    solver = AdadeltaReadout(*data, epochs=101, batch_size=50, l2=1e-3)
    run(solver, 100)  # 4 batches of 50 an epoch
    x, targets = data[0], soft_targets(data[1], 3, torch.float64)
    weight = torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adadelta([weight, bias], lr=0.1, rho=0.95, eps=1e-8)
    for _ in range(100):
        for start in range(0, 200, 50):
            optimizer.zero_grad()
            logits = x[start : start + 50] @ weight.T + bias
            loss = soft_cross_entropy(logits, targets[start : start + 50]) + 0.5e-3 * weight.square().sum()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(solver.weight, weight.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(solver.bias, bias.detach(), rtol=1e-9, atol=1e-12)
    assert solver.weight.abs().max() > 1e-3


def test_adadelta_is_tensorflows_formula_after_400_updates():
    data = problem(torch.float64)
    solver = AdadeltaReadout(*data, epochs=101, batch_size=50)
    run(solver, 100)
    x = np.hstack([data[0].numpy(), np.ones((200, 1))])
    targets = soft_targets(data[1], 3, torch.float64).numpy()
    theta, accum, accum_update = np.zeros((3, 3, 7))
    for update in range(400):
        rows = slice(update % 4 * 50, update % 4 * 50 + 50)
        logits = x[rows] @ theta.T
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        grad = (p - targets[rows]).T @ x[rows] / 50
        grad[:, :-1] += 5e-10 * theta[:, :-1]
        # tf.raw_ops.ApplyAdadelta
        accum = 0.95 * accum + 0.05 * grad**2
        change = np.sqrt(accum_update + 1e-8) / np.sqrt(accum + 1e-8) * grad
        theta = theta - 0.1 * change
        accum_update = 0.95 * accum_update + 0.05 * change**2
    np.testing.assert_allclose(solver.weight.numpy(), theta[:, :-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(solver.bias.numpy(), theta[:, -1], rtol=1e-9, atol=1e-12)


def test_adadeltas_last_epoch_cannot_be_chosen():
    solver = AdadeltaReadout(*problem(), epochs=2, batch_size=50)
    # Epoch 2 would be chosen if it could: pretend that epoch 1 was worse than anything.
    solver.step()
    solver.best_val_accuracy, solver.best_step = -1.0, 0
    solver.step()
    assert solver.done
    assert solver.best_step == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lbfgs_reaches_the_optimum_of_scipys(dtype):
    data = problem(dtype)
    solver = LBFGSReadout(*data, l2=1e-3, patience=300, tolerance=0.0)
    loss = run(solver)[-1]["loss"]
    x, targets = data[0].double(), soft_targets(data[1], 3, torch.float64)

    def objective(flat):
        theta = torch.tensor(flat.reshape(3, 7), requires_grad=True)
        weight = theta[:, :-1]
        value = soft_cross_entropy(x @ weight.T + theta[:, -1], targets) + 0.5e-3 * weight.square().sum()
        (grad,) = torch.autograd.grad(value, theta)
        return value.item(), grad.numpy().ravel()

    best = minimize(objective, np.zeros(21), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
    assert loss == pytest.approx(best.fun, rel=1e-9)
    assert solver.n_steps < 40
    weight = torch.tensor(best.x.reshape(3, 7)[:, :-1]).to(dtype)
    torch.testing.assert_close(solver.weight, weight, rtol=1e-3, atol=1e-4)


def test_lbfgs_loss_never_rises_and_patience_stops_it():
    losses = [record["loss"] for record in run(LBFGSReadout(*problem()))]
    assert all(later <= earlier for earlier, later in pairwise(losses))
    impatient = LBFGSReadout(*problem(), patience=2, tolerance=0.0)
    run(impatient)
    assert impatient.n_steps == impatient.best_step + 2


def test_lbfgs_accepts_features_that_never_vary():
    train_x, train_y, val_x, val_y, k = problem()
    solver = LBFGSReadout(
        torch.nn.functional.pad(train_x, (0, 2)), train_y, torch.nn.functional.pad(val_x, (0, 2)), val_y, k
    )
    run(solver)
    assert torch.equal(solver.best_weight[:, 6:], torch.zeros(3, 2))
    assert solver.best_val_accuracy > 0.6


def test_ridge_is_sklearns_on_standardised_features():
    data = problem(torch.float64)
    solver = RidgeReadout(*data, lambdas=(0.1,))
    record = solver.step()
    x = data[0].numpy()
    z = (x - x.mean(0)) / x.std(0)
    # sklearn minimises the sum of squares, we the mean: alpha = lambda * M.
    one_hot = np.eye(3)[data[1].numpy()]
    reference = Ridge(alpha=0.1 * len(x)).fit(z, one_hot)
    logits = x @ solver.weight.numpy().T + solver.bias.numpy()
    np.testing.assert_allclose(logits, reference.predict(z), atol=1e-10)
    residual = ((one_hot - reference.predict(z)) ** 2).sum(1).mean()
    assert record["loss"] == pytest.approx(residual + 0.1 * (reference.coef_**2).sum(), rel=1e-9)


def test_ridge_gives_a_constant_feature_no_weight():
    train_x, train_y, val_x, val_y, k = problem()
    train_x, val_x = (torch.nn.functional.pad(part, (0, 1), value=0.1) for part in (train_x, val_x))
    solver = RidgeReadout(train_x, train_y, val_x, val_y, k)
    run(solver)
    assert torch.equal(solver.best_weight[:, -1], torch.zeros(3))


@pytest.mark.parametrize("name", READOUTS)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(name):
    data = problem()
    whole = READOUTS[name](*data, **SHORT[name])
    expected = run(whole)
    first = READOUTS[name](*data, **SHORT[name])
    head = run(first, 3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = READOUTS[name](*data, **SHORT[name])
    second.load_state_dict(torch.load(file, weights_only=True))
    assert head + run(second) == expected
    assert second.n_steps == whole.n_steps
    assert second.best_step == whole.best_step
    for attribute in ("weight", "bias", "best_weight", "best_bias"):
        assert torch.equal(getattr(second, attribute), getattr(whole, attribute))


@pytest.mark.parametrize("name", READOUTS)
def test_the_first_step_with_the_best_validation_accuracy_is_chosen(name):
    data = problem()
    solver = READOUTS[name](*data, **SHORT[name])
    curve = [record["val_accuracy"] for record in run(solver)]
    candidates = curve[:-1] if name == "adadelta" else curve
    assert solver.best_step == candidates.index(max(candidates)) + 1
    logits = data[2] @ solver.best_weight.T + solver.best_bias
    assert (logits.argmax(dim=1) == data[3]).double().mean().item() == solver.best_val_accuracy == max(candidates)
    with pytest.raises(RuntimeError, match="is done"):
        solver.step()


@pytest.mark.parametrize("name", READOUTS)
def test_bad_data_is_refused_by_name(name):
    train_x, train_y, val_x, val_y, k = problem()
    make = READOUTS[name]
    with pytest.raises(ValueError, match="train_x has values that are not finite"):
        make(train_x.log().mul(0).div(0), train_y, val_x, val_y, k)
    with pytest.raises(ValueError, match="train_y must be int64"):
        make(train_x, train_y.int(), val_x, val_y, k)
    with pytest.raises(ValueError, match="val_y must lie in"):
        make(train_x, train_y, val_x, val_y + 3, k)
    with pytest.raises(ValueError, match="val_x must have the features"):
        make(train_x, train_y, val_x[:, 1:], val_y, k)


def test_bad_hyperparameters_and_foreign_states_are_refused():
    data = problem()
    for keyword in ({"epochs": 1}, {"lr": 0.0}, {"rho": 1.0}, {"batch_size": 0}, {"l2": -1.0}):
        with pytest.raises(ValueError, match=next(iter(keyword))):
            AdadeltaReadout(*data, **keyword)
    for keyword in ({"max_steps": 0}, {"patience": 0}, {"damping": 0.0}, {"tolerance": -1.0}):
        with pytest.raises(ValueError, match=next(iter(keyword))):
            LBFGSReadout(*data, **keyword)
    with pytest.raises(ValueError, match="lambdas"):
        RidgeReadout(*data, lambdas=())
    with pytest.raises(ValueError, match="state is of a RidgeReadout"):
        LBFGSReadout(*data).load_state_dict(RidgeReadout(*data).state_dict())
