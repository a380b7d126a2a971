"""Augmentation: every image is changed, in its own way, within its limits."""

from __future__ import annotations

import pytest
import torch

from anon_tune.workers.trial.augment import AUGMENTATIONS, augmented


def images(n: int = 64, side: int = 16) -> torch.Tensor:
    return torch.arange(n * 3 * side * side, dtype=torch.int32).reshape(n, 3, side, side) + 1


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_flipped_image_is_its_mirror_image_and_half_of_them_are():
    before = images()
    after = augmented(before, ["flip"], chance())
    flipped = [i for i in range(64) if torch.equal(after[i], before[i].flip(2))]
    assert [i for i in range(64) if torch.equal(after[i], before[i])] == sorted(set(range(64)) - set(flipped))
    assert 16 < len(flipped) < 48


def test_a_cropped_image_is_moved_by_an_eighth_at_most_with_zeros_beyond_its_edge():
    before = images()
    after = augmented(before, ["crop"], chance())
    seen = set()
    for one, moved in zip(before, after, strict=True):
        padded = torch.nn.functional.pad(one, (2, 2, 2, 2))
        (place,) = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(moved, padded[:, y : y + 16, x : x + 16])
        ]
        seen.add(place)
    assert len(seen) > 15, "of 25 places"


@pytest.mark.parametrize("names", [["crop"], ["flip"], ["crop", "flip"], []])
def test_shape_and_type_stay_and_the_generator_decides(names: list[str]):
    before = images().to(torch.uint8)
    first, again = (augmented(before, names, chance()) for _ in range(2))
    assert (first.shape, first.dtype) == (before.shape, before.dtype)
    assert torch.equal(first, again)
    assert torch.equal(first, augmented(before, names, chance(1))) == (not names)


def test_every_name_of_the_job_file_is_there():
    from typing import get_args

    from anon_tune.spec import Training

    (literal, _) = get_args(Training.model_fields["augment"].annotation)
    assert set(get_args(literal)) == set(AUGMENTATIONS)
