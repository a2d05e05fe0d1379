import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.data import Events, bin_events


def events_of(rows):
    return Events(*np.array(rows, np.int64).reshape(-1, 5).T)


def test_hand_computed_case():
    rows = [  # sample, x, y, t, p
        (0, 1, 2, 1499, 1),  # round(1.499) = 1; channel (1 * 34 + 2) * 34 + 1 = 1225
        (0, 1, 2, 501, 1),  # round(0.501) = 1: the same channel and step, counts once
        (0, 0, 0, 600, 0),  # step 1, channel 0, before 1225 though it comes later in the file
        (0, 3, 0, 0, 0),  # step 0, channel 3
        (0, 5, 5, 2500, 0),  # round(2.5) = 2, to even; channel 5 * 34 + 5 = 175
        (0, 5, 5, 3500, 0),  # step 4 = T: dropped
        (1, 33, 33, 2000, 1),  # sample 1, step 2, channel 2311
        (1, 34, 0, 0, 1),  # outside the sensor
        (1, 0, 34, 0, 1),
    ]
    batch = bin_events(events_of(rows), n_samples=2, n_steps=4)
    # per (sample, step): 1 2 1 0 | 0 0 1 0
    assert batch.offsets.tolist() == [0, 1, 3, 4, 4, 4, 4, 5, 5]
    assert batch.channels.tolist() == [3, 0, 1225, 175, 2311]
    assert (batch.n_steps, batch.n_channels) == (4, 2312)
    assert str(batch.offsets.dtype) == "torch.int64"
    assert str(batch.channels.dtype) == "torch.int32"


def test_no_event_at_all():
    batch = bin_events(events_of([]), n_samples=2, n_steps=3)
    assert batch.offsets.tolist() == [0] * 7
    assert batch.channels.numel() == 0


row = st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 5), st.integers(0, 9000), st.integers(0, 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(row, max_size=60))
def test_equals_a_dense_binary_tensor(rows):
    dense = np.zeros((3, 7, 2, 4, 5), bool)  # B, T, P, H, W
    for sample, x, y, t, p in rows:
        step = round(t / 1000)
        if step < 7 and x < 5 and y < 4:
            dense[sample, step, p, y, x] = True
    batch = bin_events(events_of(rows), 3, 7, (4, 5))
    flat = dense.reshape(21, 40)
    for cell in range(21):
        channels = batch.channels[batch.offsets[cell] : batch.offsets[cell + 1]].tolist()
        assert channels == np.flatnonzero(flat[cell]).tolist()
