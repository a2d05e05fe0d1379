import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.data.images.augmentation import AugmentationPlan, crop_and_flip


def test_hand_computed_crop_and_flip():
    # one 2x3 image, padding 1 with 9: rows 9 9 9 9 9 / 9 1 2 3 9 / 9 4 5 6 9 / 9 9 9 9 9
    image = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]], dtype=torch.uint8)
    fill = torch.tensor([9], dtype=torch.uint8)

    def cut(top, left, flip):
        return crop_and_flip(image, torch.tensor([top]), torch.tensor([left]), torch.tensor([flip]), 1, fill)[0, 0]

    assert cut(1, 1, False).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert cut(1, 1, True).tolist() == [[3, 2, 1], [6, 5, 4]]
    assert cut(0, 2, False).tolist() == [[9, 9, 9], [2, 3, 9]]
    assert cut(2, 0, True).tolist() == [[5, 4, 9], [9, 9, 9]]
    assert cut(0, 0, False).dtype == torch.uint8


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.integers(0, 2**31))
def test_equals_slicing_image_by_image(padding, seed):
    generator = torch.Generator().manual_seed(seed)
    images, fill = torch.rand(5, 2, 4, 6, generator=generator), torch.rand(2, generator=generator)
    top, left = torch.randint(0, 2 * padding + 1, (2, 5), generator=generator)
    flip = torch.rand(5, generator=generator) < 0.5
    result = crop_and_flip(images, top, left, flip, padding, fill)
    for b in range(5):
        padded = fill[:, None, None].repeat(1, 4 + 2 * padding, 6 + 2 * padding)
        padded[:, padding : padding + 4, padding : padding + 6] = images[b]
        window = padded[:, top[b] : top[b] + 4, left[b] : left[b] + 6]
        assert torch.equal(result[b], window.flip(2) if flip[b] else window)


def test_choices_depend_on_seed_epoch_and_index_but_not_on_the_batch():
    everything = torch.arange(1000)
    whole = torch.stack([c.long() for c in AugmentationPlan(1000, seed=3).choices(everything, 5)])
    plan = AugmentationPlan(1000, seed=3)
    plan.choices(everything, 4)
    part = torch.stack([c.long() for c in plan.choices(torch.tensor([999, 2]), 5)])
    assert torch.equal(part, whole[:, [999, 2]])
    for other in (plan.choices(everything, 6), AugmentationPlan(1000, seed=4).choices(everything, 5)):
        assert not torch.equal(torch.stack([c.long() for c in other]), whole)
    top, left, flip = whole
    assert set(top.tolist()) == set(left.tolist()) == set(range(9))
    assert 400 < flip.sum() < 600  # binomial(1000, 1/2): six standard deviations are 95
