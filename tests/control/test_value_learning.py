"""DrQ(eps)'s double target, Huber loss and greedy actions by hand."""

import torch

from plasticity_lightning.control.value_learning import double_q_target, epsilon_greedy, q_loss


def test_online_network_chooses_and_target_network_values():
    online, target = torch.tensor([[1.0, 3.0], [5.0, 2.0]]), torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    y = double_q_target(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.0]), online, target)
    assert y.tolist() == [1 + 0.5 * 20, 1.0]


def test_huber_loss_is_quadratic_then_linear():
    q = torch.tensor([[0.5, 9.0], [9.0, 3.0]])
    # errors 0.5 and 3: 0.5 * 0.25 and 3 - 0.5
    assert q_loss(q, torch.tensor([0, 1]), torch.zeros(2)).item() == (0.125 + 2.5) / 2


def test_greedy_unless_the_draw_falls_below_epsilon():
    q, random = torch.tensor([[0.0, 1.0]]).expand(3, 2), torch.tensor([0, 0, 0])
    assert epsilon_greedy(q, 0.5, torch.tensor([0.4, 0.5, 0.9]), random).tolist() == [0, 1, 1]
