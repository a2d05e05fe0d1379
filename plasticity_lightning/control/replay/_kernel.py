"""Compiled inner loops of the replay: booking of steps, n-step returns, and one pass from frames to a batch.

Frames lie as [E, L, H, W, C], one ring of L slots for each of E environments. A slot t (counted from 0 since the
beginning, at t mod L in its ring) holds a frame and how it was reached: action, reward, discount. `start[t]` is the
first slot of its episode; `window[t]` the number of steps of the transition that begins with frame t, 0 if none may.
Batches are written as [B, H, W, S * C], the memory of a channels_last tensor [B, S * C, H, W]. Numbers of a
normalised batch come from a table of 256, made by torch itself, so that they equal torch's to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

__all__ = ["book_slots", "gather_frames", "gather_returns"]


@njit(nogil=True, cache=True)
def book_slots(start, window, last, first_slot, end_slot, n_step, stack, short):  # type: ignore[no-untyped-def]
    """Book slots [first_slot, end_slot) of one ring, whose `start` and `last` are written already.

    Args:
        start: int64 [L], see above.
        window: int64 [L], see above; changed in place.
        last: bool [L], whether the frame ends an episode.
        first_slot: first of the slots.
        end_slot: one after the last.
        n_step: steps of a whole transition.
        stack: frames an observation.
        short: whether the last n_step - 1 frames of an episode begin shorter transitions, instead of none.

    Returns:
        By how much the number of transitions that may be drawn has changed.
    """
    length = len(start)
    change = 0
    for t in range(first_slot, end_slot):
        # slot t - length is overwritten: it begins no transition, and no stack may reach it
        gone = t - length
        for s in range(max(gone, 0), gone + stack):
            j = s % length
            if window[j] > 0 and (s == gone or max(start[j], s - stack + 1) <= gone):
                window[j] = 0
                change -= 1
        window[t % length] = 0
        oldest = max(0, gone + 1)
        earliest = t - n_step
        latest = t - 1 if last[t % length] and short else earliest
        for s in range(max(earliest, start[t % length], oldest), latest + 1):
            j = s % length
            if max(start[j], s - stack + 1) >= oldest:
                window[j] = t - s
                change += 1
    return change


@njit(nogil=True, cache=True)
def gather_returns(stream, slot, window, reward, discount, gamma, out_return, out_discount, out_next):  # type: ignore[no-untyped-def]
    """n-step returns, their discounts and the slots of the next observations of transitions (stream, slot) [B]."""
    length = reward.shape[1]
    for b in range(len(stream)):
        e, t = stream[b], slot[b]
        steps = window[e, t % length]
        # float32 throughout and in the published code's order, so that the sums equal its own
        total, factor = np.float32(0), np.float32(1)
        for k in range(1, steps + 1):
            i = (t + k) % length
            total += factor * reward[e, i]
            factor *= discount[e, i] * gamma
        out_return[b], out_discount[b], out_next[b] = total, factor, t + steps


@cache
def gather_frames(channels: int) -> Callable[..., None]:
    """The pass from frames to observations for frames of `channels` channels, an unrolled loop of the compiled code.

    The function that it returns stacks, shifts and normalises observations [lo, hi) of a batch. Its arguments:
    frames uint8 [E, L, H, W, channels]; start int64 [E, L]; stream and slot int64 [B], where observations end; shift
    int64 [B, 2], rows and columns in 0..2 pad, pad meaning none; pad, the width of the edge that is repeated; stack;
    zero, whether black stands before an episode's first frame, instead of that frame; table [256], what a pixel
    becomes; out [B, H, W, stack * channels] of the table's type; lo and hi.
    """

    @njit(nogil=True, cache=True)
    def gather(frames, start, stream, slot, shift, pad, stack, zero, table, out, lo, hi):  # type: ignore[no-untyped-def]
        length, height, width = frames.shape[1:4]
        for b in range(lo, hi):
            t = slot[b]
            begin = start[stream[b], t % length]
            dy, dx = shift[b, 0] - pad, shift[b, 1] - pad
            for k in range(stack):
                s = t - stack + 1 + k
                black = s < begin and zero
                frame = frames[stream[b], max(s, begin) % length]
                for y in range(height):
                    row = frame[min(max(y + dy, 0), height - 1)]
                    to = out[b, y]
                    for x in range(width):
                        # unsigned indices spare a test for negative ones
                        source, target = np.uint64(min(max(x + dx, 0), width - 1)), np.uint64(x)
                        for c in range(channels):
                            pixel = np.uint8(0) if black else row[source, np.uint64(c)]
                            to[target, np.uint64(k * channels + c)] = table[pixel]

    return gather
