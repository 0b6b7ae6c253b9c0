"""Normalising and augmenting whole batches."""

from __future__ import annotations

import pytest
import torch

from torchbonsai.core.errors import ConfigError
from torchbonsai.data import Splits, TestSplit, TrainSplit, ValSplit, augment, batches, normalise
from torchbonsai.data.augment import check_augment, draw


@pytest.fixture
def splits() -> Splits:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (50, 2, 9, 13), generator=generator, dtype=torch.uint8)
    y = torch.arange(50) % 3
    return Splits(TrainSplit(x, y), ValSplit(x, y), TestSplit(x, y), "made", 3, (0.2, 0.7), (0.5, 0.25), "here")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augmented(
    x: torch.Tensor, splits: Splits, names: tuple[str, ...], generator: torch.Generator, sizes: tuple[int, ...] = (50,)
) -> torch.Tensor:
    return augment.augmented(x, splits, names, draw(sizes, x.shape, names, generator))


def test_normalise(splits: Splits) -> None:
    x = splits.train.x
    expected = (x.double() / 255 - torch.tensor([0.2, 0.7]).view(2, 1, 1)) / torch.tensor([0.5, 0.25]).view(2, 1, 1)
    assert torch.allclose(normalise(x, splits).double(), expected, atol=1e-6)


def test_batches_in_order_ragged_and_limited(splits: Splits) -> None:
    found = batches(splits.train, splits, batch_size=20, limit=45)
    assert [len(y) for _, y in found] == [20, 20, 5]
    assert torch.equal(torch.cat([y for _, y in found]), splits.train.y[:45])
    assert torch.equal(torch.cat([x for x, _ in found]), normalise(splits.train.x[:45], splits))


def test_no_augmentation_is_normalising(splits: Splits) -> None:
    assert torch.equal(augmented(splits.train.x, splits, (), generator()), normalise(splits.train.x, splits))


def test_crop_shifts_each_image_by_its_own_amount(splits: Splits) -> None:
    out = augmented(splits.train.x, splits, ("crop",), generator())
    whole = normalise(torch.nn.functional.pad(splits.train.x, (2, 2, 2, 2)), splits)
    shifts = set()
    for image, padded in zip(out, whole, strict=True):
        matches = [(a, b) for a in range(5) for b in range(5) if torch.equal(image, padded[:, a : a + 9, b : b + 13])]
        assert len(matches) == 1
        shifts.add(matches[0])
    assert len(shifts) > 10


def test_flip_turns_about_half(splits: Splits) -> None:
    plain, out = normalise(splits.train.x, splits), augmented(splits.train.x, splits, ("flip",), generator())
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(out, plain, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(out, plain, strict=True)]
    assert sum(flipped) + sum(kept) == 50
    assert 10 < sum(flipped) < 40


def test_cutout_blanks_one_rectangle_with_the_mean(splits: Splits) -> None:
    plain, out = normalise(splits.train.x, splits), augmented(splits.train.x, splits, ("cutout",), generator())
    changed = (out != plain).any(1)
    assert ((out == plain) | (out == 0)).all()
    areas = changed.sum((1, 2))
    assert int(areas.max()) == 4 * 6  # half of 9 by half of 13, rounded down
    assert int(areas.min()) < 4 * 6  # cut off at a border
    for mask in changed:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])


def test_same_generator_same_batch_and_global_state_untouched(splits: Splits) -> None:
    before = torch.get_rng_state()
    everything = ("crop", "flip", "cutout")
    first, again, other = (augmented(splits.train.x, splits, everything, generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_numbers_are_drawn_batch_after_batch(splits: Splits) -> None:
    """An epoch at once is the same as its batches one by one."""
    everything, x = ("crop", "flip", "cutout"), splits.train.x
    whole, one_by_one = augmented(x, splits, everything, generator(), (30, 20)), generator()
    parts = [augmented(part, splits, everything, one_by_one, (len(part),)) for part in x.split([30, 20])]
    assert torch.equal(whole, torch.cat(parts))


def test_crop_and_flip_together_are_one_after_the_other(splits: Splits) -> None:
    drawn = draw((50,), splits.train.x.shape, ("crop", "flip"), generator())
    assert drawn.shape == (3, 50)
    out = augment.augmented(splits.train.x, splits, ("crop", "flip"), drawn)
    padded = normalise(torch.nn.functional.pad(splits.train.x, (2, 2, 2, 2)), splits)
    for image, whole, (top, left, flip) in zip(out, padded, drawn.T.tolist(), strict=True):
        cropped = whole[:, top : top + 9, left : left + 13]
        assert torch.equal(image, cropped.flip(2) if flip else cropped)


@pytest.mark.parametrize("wrong", [("rotate",), ("flip", "flip"), ("crop", "mixup")])
def test_unknown_augmentation(wrong: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        check_augment(wrong)
