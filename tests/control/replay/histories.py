"""Made-up streams of steps, and a slow replay over plain lists that the fast one is compared with."""

import numpy as np

from plasticity_lightning.control.environments import ContinuousActions, DiscreteActions
from plasticity_lightning.control.environments.steps import Steps

SHAPE = (2, 3, 4)
CONTINUOUS, DISCRETE = ContinuousActions(2), DiscreteActions(5)


class Source:
    """Random frames and rewards; episodes of random lengths, half of which terminate."""

    def __init__(self, n, seed=0, longest=6, actions=CONTINUOUS):
        self.n, self.actions, self.longest = n, actions, longest
        self.generator = np.random.default_rng(seed)
        self.left = self.generator.integers(1, longest + 1, n)

    def frames(self):
        return self.generator.integers(0, 256, (self.n, *SHAPE)).astype(np.uint8)

    def steps(self):
        self.left -= 1
        last = self.left == 0
        terminal = last & (self.generator.random(self.n) < 0.5)
        self.left[last] = self.generator.integers(1, self.longest + 1, last.sum())
        return Steps(
            self.actions.sample(self.generator, self.n),
            self.frames(),
            self.generator.normal(size=self.n).astype(np.float32),
            np.where(terminal, 0, 1).astype(np.float32),
            last,
            self.frames(),
        )


class ListReplay:
    """Every slot of every stream ever, as a dict; transitions by definition."""

    def __init__(self, n, length, stack, n_step, short, zero, pad, gamma):
        self.streams = [[] for _ in range(n)]
        self.length, self.stack, self.n_step, self.short = length, stack, n_step, short
        self.zero, self.pad, self.gamma = zero, pad, np.float32(gamma)

    def start(self, frames):
        for stream, frame in zip(self.streams, frames, strict=True):
            if stream:
                stream[-1]["over"] = True
            stream.append({"frame": frame, "start": len(stream), "over": False, "last": False})

    def add(self, steps):
        for e, stream in enumerate(self.streams):
            last = bool(steps.last[e])
            stream.append(
                {
                    "frame": steps.frame[e],
                    "action": steps.action[e],
                    "reward": steps.reward[e],
                    "discount": steps.discount[e],
                    "start": stream[-1]["start"],
                    "over": last,
                    "last": last,
                }
            )
            if last:
                stream.append({"frame": steps.reset_frame[e], "start": len(stream), "over": False, "last": False})

    def transitions(self):
        """{(environment, slot): steps of the transition} of all that may be drawn."""
        found = {}
        for e, stream in enumerate(self.streams):
            oldest = max(0, len(stream) - self.length)
            for t in range(oldest, len(stream)):
                episode = [s for s in range(t, len(stream)) if stream[s]["start"] == stream[t]["start"]]
                steps = len(episode) - 1
                if steps >= self.n_step:
                    steps = self.n_step
                elif not (self.short and steps > 0 and stream[episode[-1]]["last"]):
                    continue
                if max(stream[t]["start"], t - self.stack + 1) >= oldest:
                    found[e, t] = steps
        return found

    def observation(self, e, t, shift):
        stream = self.streams[e]
        frames = []
        for s in range(t - self.stack + 1, t + 1):
            first = stream[t]["start"]
            frames.append(np.zeros(SHAPE, np.uint8) if s < first and self.zero else stream[max(s, first)]["frame"])
        image = np.concatenate(frames)
        padded = np.pad(image, ((0, 0), (self.pad, self.pad), (self.pad, self.pad)), mode="edge")
        return padded[:, shift[0] : shift[0] + SHAPE[1], shift[1] : shift[1] + SHAPE[2]]

    def transition(self, e, t, steps, shifts):
        stream = self.streams[e]
        reward, discount = np.float32(0), np.float32(1)
        for s in range(t + 1, t + steps + 1):
            reward += discount * stream[s]["reward"]
            discount *= stream[s]["discount"] * self.gamma
        return (
            self.observation(e, t, shifts[0]),
            stream[t + 1]["action"],
            reward,
            discount,
            self.observation(e, t + steps, shifts[1]),
        )
