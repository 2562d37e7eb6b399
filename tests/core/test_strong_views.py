"""Strongly distorted views."""

import dataclasses

import pytest
import torch

from core.strong_views import PSEUDO_LABELLED, SELF_SUPERVISED, Ranges, StrongAugmenter

CPU = torch.device("cpu")
STILL = Ranges(least_area=1, log_contrast=0, brightness=0, log_saturation=0, hue=0, grey=0, hole=0)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def augmenter(ranges: Ranges, seed: int = 0) -> StrongAugmenter:
    return StrongAugmenter(ranges, image_size=24, mean=MEAN, std=STD, seed=seed, device=CPU)


def denormalised(views: torch.Tensor) -> torch.Tensor:
    return views * torch.tensor(STD)[None, :, None, None] + torch.tensor(MEAN)[None, :, None, None]


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randint(0, 256, (6, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ranges", [SELF_SUPERVISED, PSEUDO_LABELLED])
def test_a_view_depends_on_seed_image_and_number_alone(noise, ranges):
    rows = torch.arange(6)
    views = augmenter(ranges).view(noise, rows, 3)
    again = augmenter(ranges).view(noise[[4, 1]], rows[[4, 1]], 3)
    torch.testing.assert_close(again, views[[4, 1]])
    assert views.shape == (6, 3, 24, 24)
    assert views.is_contiguous(memory_format=torch.channels_last)
    for other in (augmenter(ranges).view(noise, rows, 4), augmenter(ranges, seed=1).view(noise, rows, 3)):
        assert all(not torch.equal(a, b) for a, b in zip(other, views, strict=True))


def test_plain_colours_stay_where_nothing_but_places_is_drawn():
    colours = torch.tensor([[200, 100, 50], [10, 20, 30]], dtype=torch.uint8)
    images = colours[:, :, None, None].expand(-1, -1, 28, 28)
    crops = dataclasses.replace(STILL, least_area=0.2)
    pixels = denormalised(augmenter(crops).view(images, torch.arange(2), 0))
    torch.testing.assert_close(pixels, (images[:, :, :24, :24] / 255).float(), atol=1e-5, rtol=0)


def test_a_grey_view_has_no_colours_and_the_luminance_of_its_image():
    images = torch.tensor([200, 100, 50], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 28, 28)
    pixels = denormalised(augmenter(dataclasses.replace(STILL, grey=1.0)).view(images, torch.arange(1), 0))
    luminance = (0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 255
    torch.testing.assert_close(pixels, torch.full_like(pixels, luminance), atol=1e-3, rtol=0)


def test_a_hole_shows_the_mean_colour_and_is_no_larger_than_asked_for():
    images = torch.full((64, 3, 28, 28), 255, dtype=torch.uint8)
    views = augmenter(dataclasses.replace(STILL, hole=0.5)).view(images, torch.arange(64), 0)
    shares = (views[:, 0] == 0).float().mean((1, 2))
    assert 0 < shares.mean() < 0.25
    assert shares.max() <= 0.25 + 0.05  # whole pixels


def test_views_differ_more_in_colour_where_more_is_asked_for(noise):
    rows, plain = torch.arange(6), augmenter(STILL).view(noise, torch.arange(6), 0)
    spreads = []
    for hue in (0.0, 0.5):
        ranges = dataclasses.replace(STILL, hue=hue, log_saturation=hue)
        spreads.append((augmenter(ranges).view(noise, rows, 0) - plain).abs().mean().item())
    assert spreads[0] < 1e-5 < 0.01 < spreads[1]
