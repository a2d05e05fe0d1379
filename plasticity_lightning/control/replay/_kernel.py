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
def gather_frames(channels: int, stack: int) -> Callable[..., None]:
    """The pass from frames to observations of `stack` frames of `channels` channels, unrolled loops of the compiled code.

    The function that it returns stacks, shifts and normalises observations [lo, hi) of a batch, pixel by pixel, so that
    the batch is written in the order of its memory. Its arguments: frames uint8 [E, L, H, W, channels], contiguous;
    start int64 [E, L]; stream and slot int64 [B], where observations end; shift int64 [B, 2], rows and columns in 0..2
    pad, pad meaning none; pad, the width of the edge that is repeated; zero, whether black stands before an episode's
    first frame, instead of that frame; table [256], what a pixel becomes; out [B, H, W, stack * channels] of the table's
    type; lo and hi.
    """

    @njit(nogil=True, cache=True)
    def gather(frames, start, stream, slot, shift, pad, zero, table, out, lo, hi):  # type: ignore[no-untyped-def]  # numba types it
        length, height, width = frames.shape[1:4]
        pixels = frames.reshape(-1)
        place = np.empty(stack, np.int64)  # where each frame begins in `pixels`
        for b in range(lo, hi):
            oldest = slot[b] - stack + 1
            begin = start[stream[b], slot[b] % length]
            dy, dx = shift[b, 0] - pad, shift[b, 1] - pad
            for k in range(stack):
                slot_k = max(oldest + k, begin) % length
                place[k] = (stream[b] * length + slot_k) * (height * width * channels)
            for y in range(height):
                row, to = min(max(y + dy, 0), height - 1) * width, out[b, y]
                for x in range(width):
                    source = (row + min(max(x + dx, 0), width - 1)) * channels
                    for k in range(stack):
                        for c in range(channels):
                            # unsigned indices spare a test for negative ones
                            pixel = pixels[np.uint64(place[k] + source + c)]
                            to[np.uint64(x), np.uint64(k * channels + c)] = table[pixel]
            if zero and oldest < begin:
                out[b, :, :, : min(begin - oldest, stack) * channels] = table[0]

    return gather
