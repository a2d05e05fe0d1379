"""The replay against a slow one over plain lists: at the seam of the ring, at episode ends, over several environments."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.control.environments import Collector, EnvironmentSpec, FrameStack
from plasticity_lightning.control.replay import Draw, FrameReplay
from plasticity_lightning.errors import UserError
from tests.control.replay.histories import CONTINUOUS, DISCRETE, SHAPE, ListReplay, Source


def filled(n_ticks, n=1, capacity=40, seed=0, restart_at=None, longest=6, **options):
    source = Source(n, seed, longest, options.pop("actions", CONTINUOUS))
    replay = FrameReplay(SHAPE, source.actions, capacity, n_environments=n, pad=1, **options)
    reference = ListReplay(
        n,
        capacity // n,
        options.get("stack", 3),
        options.get("n_step", 3),
        options.get("tail", "full") == "short",
        options.get("padding", "repeat") == "zero",
        1,
        0.99,
    )
    for tick in range(n_ticks + 1):
        if tick in (0, restart_at):
            frames = source.frames()
            replay.start(frames)
            reference.start(frames)
        if tick == n_ticks:
            break
        steps = source.steps()
        replay.add(steps)
        reference.add(steps)
    return replay, reference


def compare(replay, reference, dtype="uint8"):
    expected = reference.transitions()
    ring = replay._ring
    drawable = {
        (e, int(t)): int(ring.window[e, t % ring.length])
        for e in range(ring.n)
        for t in range(ring.oldest[e], ring.count[e])
        if ring.window[e, t % ring.length]
    }
    assert drawable == expected
    assert len(replay) == len(expected)
    if not expected:
        return
    stream, slot = (np.array(part, np.int64) for part in zip(*expected, strict=True))
    shift = np.random.default_rng(1).integers(0, 3, (2, len(slot), 2))
    batch = replay.gather(Draw(stream, slot, shift))
    for b, ((e, t), steps) in enumerate(expected.items()):
        obs, action, reward, discount, next_obs = reference.transition(e, t, steps, shift[:, b])
        for ours, theirs in ((batch.obs[b], obs), (batch.next_obs[b], next_obs)):
            theirs = torch.from_numpy(np.ascontiguousarray(theirs))
            if dtype != "uint8":
                theirs = (theirs.float() / 255 - 0.5).to(ours.dtype)
            assert torch.equal(ours, theirs)
        assert np.array_equal(batch.action[b].numpy(), action)
        assert batch.reward[b].item() == reward
        assert batch.discount[b].item() == discount


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3),
    ticks=st.integers(0, 60),
    extra=st.integers(0, 12),
    stack=st.integers(1, 4),
    n_step=st.integers(1, 5),
    tail=st.sampled_from(["full", "short"]),
    padding=st.sampled_from(["repeat", "zero"]),
    longest=st.integers(1, 12),
    seed=st.integers(0, 1000),
    restart=st.integers(0, 60),
)
def test_what_may_be_drawn_and_what_it_is(n, ticks, extra, stack, n_step, tail, padding, longest, seed, restart):
    replay, reference = filled(
        ticks,
        n,
        n * (stack + n_step + extra),
        seed,
        restart,
        longest,
        stack=stack,
        n_step=n_step,
        tail=tail,
        padding=padding,
        dtype="uint8",
    )
    compare(replay, reference)


@pytest.mark.parametrize("storage", ["memory", "memmap", "device"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
@pytest.mark.parametrize("padding", ["repeat", "zero"])
def test_every_storage_and_type_of_pixel(storage, dtype, padding):
    replay, reference = filled(60, n=2, storage=storage, dtype=dtype, padding=padding, actions=DISCRETE, threads=2)
    compare(replay, reference, dtype)
    batch = replay.sample(7)
    assert batch.obs.dtype == getattr(torch, dtype)
    assert batch.obs.is_contiguous(memory_format=torch.channels_last)
    assert batch.action.dtype == torch.int64


def test_batches_are_the_same_whatever_the_storage_and_the_number_of_threads():
    batches = [
        filled(60, storage=storage, threads=threads)[0].sample(16)
        for storage, threads in (("memory", 1), ("memory", 3), ("memmap", 1), ("device", 1))
    ]
    for other in batches[1:]:
        assert all(torch.equal(getattr(batches[0], k), getattr(other, k)) for k in vars(other))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("padding", ["repeat", "zero"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
def test_batches_from_the_memory_of_a_gpu_are_those_from_main_memory(dtype, padding):
    host, _ = filled(60, n=2, dtype=dtype, padding=padding)
    gpu, _ = filled(60, n=2, dtype=dtype, padding=padding, storage="device", device="cuda")
    ours, theirs = gpu.sample(32), host.sample(32)
    for name in vars(theirs):
        assert getattr(ours, name).is_cuda
        torch.testing.assert_close(getattr(ours, name).cpu(), getattr(theirs, name), rtol=0, atol=1e-6)


@pytest.mark.parametrize("order", ["transition", "episode"])
@pytest.mark.parametrize("capacity", [18, 400])  # few of many slots begin a transition; many do
def test_drawing_is_uniform_over_what_the_order_says(order, capacity):
    replay, reference = filled(90, n=2, capacity=capacity, order=order, n_step=2, longest=4 if capacity == 18 else 12)
    expected = dict.fromkeys(reference.transitions(), 1.0)
    if order == "episode":  # of finished episodes each has the same share
        streams = reference.streams
        expected = {k: 1.0 for k in expected if any(s["over"] for s in same_episode(streams, *k))}
        sizes = {}
        for e, t in expected:
            key = e, streams[e][t]["start"]
            sizes[key] = sizes.get(key, 0) + 1
        expected = {(e, t): 1 / sizes[e, streams[e][t]["start"]] for e, t in expected}
    n = 400 * len(expected)
    draw = replay.draw(n)
    counts = dict.fromkeys(expected, 0)
    for key in zip(draw.stream.tolist(), draw.slot.tolist(), strict=True):
        counts[key] += 1  # a KeyError is a transition that must not be drawn
    total = sum(expected.values())
    chi2 = sum((counts[k] - n * p / total) ** 2 / (n * p / total) for k, p in expected.items())
    freedom = len(expected) - 1
    # mean of chi2 is the freedom, its variance twice that: five standard deviations
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def same_episode(streams, e, t):
    return [slot for slot in streams[e] if slot["start"] == streams[e][t]["start"]]


def test_published_returns_of_three_steps():
    source = Source(1)
    source.left[:] = 100
    replay = FrameReplay(SHAPE, CONTINUOUS, 40, gamma=0.5, n_step=3)
    replay.start(source.frames())
    for reward in (1.0, 2.0, 4.0, 8.0):
        steps = source.steps()
        steps.reward[:] = reward
        replay.add(steps)
    batch = replay.gather(Draw(np.zeros(2, np.int64), np.arange(2), np.full((2, 2, 2), 4)))
    assert batch.reward.tolist() == [1 + 2 / 2 + 4 / 4, 2 + 4 / 2 + 8 / 4]
    assert batch.discount.tolist() == [1 / 8, 1 / 8]


def test_termination_stops_the_bootstrap_and_a_time_limit_does_not():
    for terminal in (True, False):
        replay = FrameReplay(SHAPE, CONTINUOUS, 40, gamma=0.5, n_step=3, tail="short")
        source = Source(1)
        replay.start(source.frames())
        for tick in range(4):
            steps = source.steps()
            steps.last[:] = tick == 3
            steps.discount[:] = 0.0 if tick == 3 and terminal else 1.0
            steps.reward[:] = 1.0
            replay.add(steps)
        batch = replay.gather(Draw(np.zeros(4, np.int64), np.arange(4), np.full((2, 4, 2), 4)))
        assert batch.reward.tolist() == [1.75, 1.75, 1.5, 1.0]
        assert batch.discount.tolist() == [0.125, *([0.0] * 3 if terminal else [0.125, 0.25, 0.5])]


def test_the_agent_sees_the_stacks_that_the_replay_stores():
    for padding in ("repeat", "zero"):
        collector = Collector(EnvironmentSpec("reach", {"episode_steps": 7}), [0, 1], "inline")
        stack = FrameStack(3, padding)
        replay = FrameReplay(
            collector.frame_shape, collector.actions, 200, n_environments=2, dtype="uint8", padding=padding
        )
        replay.augment = False
        first = collector.reset()
        replay.start(first)
        seen = [[view] for view in stack.reset(first)]
        for _ in range(40):
            collector.submit(collector.actions.sample(np.random.default_rng(0), 2))
            steps = collector.result()
            replay.add(steps)
            for e, view in enumerate(stack.push(steps)):
                if steps.last[e]:
                    seen[e].append(None)  # the last frame is stored, not acted on
                seen[e].append(view)
        for e in range(2):
            slots = np.array([t for t, view in enumerate(seen[e]) if view is not None], np.int64)
            none = np.full((len(slots), 2), 4)
            views = replay._reader.read(np.full(len(slots), e), slots, none)
            assert np.array_equal(views.numpy(), np.stack([seen[e][t] for t in slots]))


def test_shift_equals_the_published_one():
    """DrQ-v2 pads by replication and samples bilinearly on a shifted grid; here with its own formulas in float64."""
    replay = FrameReplay((3, 12, 12), CONTINUOUS, 40, pad=4, dtype="uint8", stack=1)
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 12, 12)).astype(np.uint8)
    replay.start(image)
    for dy, dx in ((0, 8), (3, 5), (8, 0), (4, 4)):
        ours = replay._reader.read(np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([[dy, dx]]))
        x = torch.nn.functional.pad(torch.from_numpy(image).double(), (4,) * 4, "replicate")
        size = 12 + 2 * 4
        eps = 1 / size
        arange = (
            torch.linspace(-1 + eps, 1 - eps, size, dtype=torch.double)[:12].unsqueeze(0).repeat(12, 1).unsqueeze(2)
        )
        grid = torch.cat([arange, arange.transpose(1, 0)], dim=2)[None]
        shift = torch.tensor([dx, dy], dtype=torch.double) * 2 / size
        theirs = torch.nn.functional.grid_sample(x, grid + shift, padding_mode="zeros", align_corners=False)
        assert (ours.double() - theirs).abs().max() < 1e-9


def test_prefetching_changes_nothing_that_is_drawn():
    plain, _ = filled(60, n=2)
    eager, _ = filled(60, n=2)
    source = Source(2, seed=5)
    for n in (0, 1, 3):
        steps = source.steps()
        batches = eager.batches(n, 8)
        eager.state()  # takes the prefetched draw back
        ours = list(batches)
        assert [torch.equal(a.obs, plain.sample(8).obs) for a in ours] == [True] * n
        eager.prefetch(8)
        eager.add(steps)  # too: the next batch may hold the new step
        plain.add(steps)
        assert eager.state() == plain.state()
    eager.prefetch(8)
    assert torch.equal(eager.sample(4).obs, plain.sample(4).obs)  # another size than was prefetched
    eager.prefetch(8)
    eager.augment = plain.augment = False
    ours, theirs = eager.sample(8), plain.sample(8)
    assert all(torch.equal(getattr(ours, k), getattr(theirs, k)) for k in vars(ours))


def test_augmentation_changes_no_other_choice():
    shifted, plain = filled(60)[0], filled(60)[0]
    plain.augment = False
    for _ in range(2):
        ours, theirs = shifted.draw(8), plain.draw(8)
        assert np.array_equal(ours.slot, theirs.slot)
        assert (theirs.shift == 1).all()
    plain.augment = True
    assert np.array_equal(shifted.draw(8).shift, plain.draw(8).shift)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stack": 0}, "stack=0"),
        ({"n_step": 0}, "n_step=0"),
        ({"pad": -1}, "pad=-1"),
        ({"gamma": 0.0}, "gamma=0.0"),
        ({"storage": "disk"}, "storage='disk' must be one of memory, memmap, device"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"order": "uniform"}, "order='uniform'"),
        ({"capacity": 5}, r"capacity=5 gives 5 frames .* one transition takes 6"),
        ({"n_step": 8, "episode_steps": 7}, "n_step=8 is longer than an episode, which has at most 7 steps"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FrameReplay(SHAPE, CONTINUOUS, **({"capacity": 40} | options))


@pytest.mark.parametrize("storage", ["memory", "memmap", "device"])
def test_a_replay_that_does_not_fit_says_what_would(storage, tmp_path):
    with pytest.raises(UserError, match=r"needs \d+\.\d [GM]B, .* free: capacity=\d+ would fit"):
        FrameReplay((3, 84, 84), CONTINUOUS, 10**12, storage=storage, folder=tmp_path)
    replay = FrameReplay(SHAPE, CONTINUOUS, 40)
    replay.check_disk(tmp_path / "not" / "there")
    replay._ring.length = 10**15
    with pytest.raises(UserError, match=r"checkpointed content .* capacity=\d+ would fit"):
        replay.check_disk(tmp_path / "not" / "there")


def test_drawing_from_nothing_is_an_error():
    replay = FrameReplay(SHAPE, CONTINUOUS, 40, order="episode")
    with pytest.raises(RuntimeError, match="start"):
        replay.add(Source(1).steps())
    with pytest.raises(ValueError, match=r"\[1, 3, 4\] does not fit a replay of \(2, 3, 4\)"):
        replay.start(Source(1).frames()[:, :1])
    replay.start(Source(1).frames())
    with pytest.raises(UserError, match="no transition of n_step=3"):
        replay.sample(4)
    source = Source(1)
    source.left[:] = 100
    for _ in range(5):
        replay.add(source.steps())
    with pytest.raises(UserError, match="finished episodes"):
        replay.sample(4)
    with pytest.raises(ValueError, match="batch_size=0"):
        replay.sample(0)
