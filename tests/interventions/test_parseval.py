"""The Parseval penalty and its gradient."""

import pytest
import torch

from plasticity_lightning.interventions.parseval import add_parseval_gradient, parseval_penalty


def test_by_hand():
    # W W^T = diag(4, 1) against 2 I: (4 - 2)^2 + (1 - 2)^2 = 5
    assert parseval_penalty(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), scale=2.0) == 5.0
    # orthonormal columns of a standing matrix cost nothing
    assert parseval_penalty(torch.eye(4)[:, :2]) == 0.0


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2), (4, 2, 3), (7, 2, 3)])
def test_the_added_gradient_is_that_of_the_penalty(shape):
    w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    (0.3 * parseval_penalty(w, 1.5) + w.sum()).backward()
    expected, w.grad = w.grad, None
    w.sum().backward()
    add_parseval_gradient(w, 0.3, 1.5)
    torch.testing.assert_close(w.grad, expected)
    w.grad = None
    add_parseval_gradient(w, 0.3, 1.5)
    torch.testing.assert_close(w.grad, expected - 1)


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"must be \[out, in, ...\]; its shape is \(3,\)"):
        parseval_penalty(torch.ones(3))
