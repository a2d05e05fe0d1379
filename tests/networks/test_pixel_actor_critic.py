"""Sizes of DrQ-v2's networks, from the published settings, and their initial weights."""

import pytest
import torch

from plasticity_lightning.networks.pixel_actor_critic import PixelActor, PixelEncoder, TwinCritic


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("side", "channels", "features"),
    [
        (84, 32, 32 * 35**2),
        (48, 16, 16 * 17**2),
        (24, 16, 16 * 5**2),
    ],  # 84 -> 41, 39, 37, 35; 48 -> 23 .. 17; 24 -> 11 .. 5
)
def test_features_behind_the_encoder(side, channels, features):
    encoder = PixelEncoder((9, side, side), channels)
    assert encoder.features == features
    assert encoder(torch.zeros(2, 9, side, side)).shape == (2, features)


def test_published_sizes():
    encoder, actor, critic = PixelEncoder((9, 84, 84)), PixelActor(39200, 6), TwinCritic(39200, 6)
    assert parameters(encoder) == 9 * 32 * 9 + 32 + 3 * (32 * 32 * 9 + 32)
    trunk = 39200 * 50 + 50 + 2 * 50
    assert parameters(actor) == trunk + 50 * 1024 + 1024 + 1024**2 + 1024 + 1024 * 6 + 6
    assert parameters(critic) == trunk + 2 * (56 * 1024 + 1024 + 1024**2 + 1024 + 1024 + 1)


def test_weights_are_orthogonal_and_biases_zero():
    critic, encoder = TwinCritic(400, 2, hidden=64), PixelEncoder((3, 24, 24), 4)
    w = critic.q1.hidden_2.weight
    assert torch.allclose(w @ w.T, torch.eye(64), atol=1e-5)
    kernel = encoder.conv_2.weight.flatten(1)  # 4 x 36, gain sqrt(2)
    assert torch.allclose(kernel @ kernel.T, 2 * torch.eye(4), atol=1e-5)
    assert all(not p.any() for name, p in critic.named_parameters() if name.endswith("bias"))


def test_both_estimates_see_the_action_and_differ():
    critic = TwinCritic(400, 2, hidden=64)
    encoded = torch.randn(3, 400)
    a, b = critic(encoded, torch.zeros(3, 2)), critic(encoded, torch.ones(3, 2))
    assert all(not torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(*a)


def test_actor_is_bounded():
    actor = PixelActor(400, 3, hidden=32)
    assert actor(100 * torch.randn(5, 400)).abs().max() <= 1


def test_a_saturated_actor_in_bfloat16_still_learns():
    actor, critic = PixelActor(16, 1, hidden=8), TwinCritic(16, 1, hidden=8)
    with torch.no_grad():
        actor.policy.output.bias.fill_(5.0)  # tanh(5) = 0.99991, which bfloat16 rounds to 1
        actor.policy.output.weight.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        mean = actor(torch.randn(4, 16))
        assert mean.dtype == critic(torch.randn(4, 16), mean)[0].dtype == torch.float32
    mean.sum().backward()
    assert torch.allclose(actor.policy.output.bias.grad, torch.tensor([4 * (1 - 0.9999092) * 2.0]), rtol=0.1)


def test_frames_smaller_than_the_kernels_are_refused():
    PixelEncoder((3, 15, 15), 1)
    with pytest.raises(ValueError, match="at least 15x15"):
        PixelEncoder((3, 14, 40), 1)
    with pytest.raises(ValueError, match="hidden=0"):
        TwinCritic(4, 1, hidden=0)
