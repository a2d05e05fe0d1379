"""One update of DrQ-v2 written down slowly from its description: own shift, loops over parameters, plain Adam.

It shares no code with the package: networks are dictionaries of tensors in NCHW memory, the shift is a bilinear
`grid_sample`, Adam and the target's average are loops. It takes the random numbers as arguments.
"""

import torch
import torch.nn.functional as F


def network(module):
    """Leaf copies of a module's parameters by name."""
    return {name: p.detach().clone().contiguous().requires_grad_() for name, p in module.named_parameters()}


def encode(p, x):
    for i in range(1, 5):
        x = F.relu(F.conv2d(x, p[f"conv_{i}.weight"], p[f"conv_{i}.bias"], stride=2 if i == 1 else 1))
    return x.reshape(len(x), -1)


def trunk(p, h):
    h = F.linear(h, p["trunk.linear.weight"], p["trunk.linear.bias"])
    centred = h - h.mean(1, keepdim=True)
    h = centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-5)
    return torch.tanh(h * p["trunk.norm.weight"] + p["trunk.norm.bias"])


def head(p, name, h):
    for layer in ("hidden_1", "hidden_2"):
        h = torch.clamp(F.linear(h, p[f"{name}.{layer}.weight"], p[f"{name}.{layer}.bias"]), min=0)
    return F.linear(h, p[f"{name}.output.weight"], p[f"{name}.output.bias"])


def actor(p, h):
    return torch.tanh(head(p, "policy", trunk(p, h)))


def critic(p, h, a):
    joined = torch.cat([trunk(p, h), a], dim=1)
    return head(p, "q1", joined), head(p, "q2", joined)


def shift(x, offsets, pad):
    """x [B, C, H, W] with values 0..255; offsets [B, 2] rows and columns."""
    n, _, h, w = x.shape
    assert h == w
    x = F.pad(x, (pad,) * 4, "replicate")
    eps = 1.0 / (h + 2 * pad)
    line = torch.linspace(-1.0 + eps, 1.0 - eps, h + 2 * pad, dtype=x.dtype)[:h]
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).expand(n, h, w, 2)
    move = offsets.flip(1).to(x.dtype)[:, None, None, :] * 2.0 / (h + 2 * pad)
    return F.grid_sample(x, grid + move, padding_mode="zeros", align_corners=False)


def truncated(mean, noise, sigma, clip):
    a = mean + torch.clamp(noise * sigma, -clip, clip)
    inside = torch.clamp(a, -1 + 1e-6, 1 - 1e-6)
    return a + (inside - a).detach()


class Adam:
    def __init__(self, parameters, lr):
        self.p, self.lr, self.t = list(parameters.values()), lr, 0
        self.m, self.v = ([torch.zeros_like(p) for p in self.p] for _ in range(2))

    def zero(self):
        for p in self.p:
            p.grad = None

    @torch.no_grad()
    def step(self):
        self.t += 1
        for p, m, v in zip(self.p, self.m, self.v, strict=True):
            m.mul_(0.9).add_(0.1 * p.grad)
            v.mul_(0.999).add_(0.001 * p.grad**2)
            p -= self.lr * (m / (1 - 0.9**self.t)) / (torch.sqrt(v / (1 - 0.999**self.t)) + 1e-8)


class Reference:
    """Networks, optimisers and the update; `modules` are those of the agent under test, whose weights are copied."""

    def __init__(self, encoder, actor, critic, lr, tau=0.01, clip=0.3):
        self.encoder, self.actor, self.critic = network(encoder), network(actor), network(critic)
        self.target = {name: p.detach().clone() for name, p in self.critic.items()}
        self.optimizers = [Adam(p, lr) for p in (self.encoder, self.actor, self.critic)]
        self.tau, self.clip = tau, clip

    def update(self, obs, offsets, action, reward, discount, next_obs, next_offsets, pad, sigma, noise, next_noise):
        encoder_opt, actor_opt, critic_opt = self.optimizers
        obs = shift(obs, offsets, pad) / 255.0 - 0.5
        next_obs = shift(next_obs, next_offsets, pad) / 255.0 - 0.5
        h = encode(self.encoder, obs)
        with torch.no_grad():
            h_next = encode(self.encoder, next_obs)
            a_next = truncated(actor(self.actor, h_next), next_noise, sigma, self.clip)
            y = reward + discount * torch.min(*critic(self.target, h_next, a_next))
        q1, q2 = critic(self.critic, h, action)
        loss = ((q1 - y) ** 2).mean() + ((q2 - y) ** 2).mean()
        encoder_opt.zero()
        critic_opt.zero()
        loss.backward()
        critic_opt.step()
        encoder_opt.step()
        h = h.detach()
        loss = -torch.min(*critic(self.critic, h, truncated(actor(self.actor, h), noise, sigma, self.clip))).mean()
        actor_opt.zero()
        loss.backward()
        actor_opt.step()
        with torch.no_grad():
            for name, p in self.critic.items():
                self.target[name] = self.tau * p + (1 - self.tau) * self.target[name]
