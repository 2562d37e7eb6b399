import pytest
import torch

from core.augment import Augmenter, dihedral_views, uniform_draws
from core.framing import FRAMINGS, Framing

CPU = torch.device("cpu")


def augmenter(strength: float = 1.0, seed: int = 0, image_size: int = 24) -> Augmenter:
    made = Augmenter(image_size=image_size, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), seed=seed, device=CPU)
    made.set_strength(strength)
    return made


def photos(count: int, side: int = 28) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_view_depends_on_seed_image_epoch_and_strength_alone() -> None:
    images, rows = photos(6), torch.tensor([3, 1, 4, 15, 9, 2])
    views = augmenter().train_view(images, rows, 5)
    order = torch.tensor([4, 0, 5])
    again = augmenter().train_view(images[order], rows[order], 5)
    torch.testing.assert_close(again, views[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("other", [{"seed": 1}, {"strength": 0.5}])
def test_another_seed_or_strength_shows_another_view(other: dict[str, float]) -> None:
    images, rows = photos(2), torch.tensor([0, 1])
    assert not torch.equal(augmenter().train_view(images, rows, 0), augmenter(**other).train_view(images, rows, 0))


def test_another_epoch_shows_another_view() -> None:
    images, rows = photos(2), torch.tensor([0, 1])
    assert not torch.equal(augmenter().train_view(images, rows, 0), augmenter().train_view(images, rows, 1))


def test_draws_do_not_collide_between_seeds_rows_and_epochs() -> None:
    # seed 0 in epoch 1 must not be seed 1 in epoch 0, as it would be if they were added.
    draws = torch.cat([uniform_draws(seed, torch.arange(50), epoch) for seed in range(4) for epoch in range(4)])
    assert len(torch.unique(draws, dim=0)) == len(draws)


def test_draws_are_uniform_and_independent() -> None:
    draws = uniform_draws(7, torch.arange(20_000), 3)
    assert draws.min() >= 0
    assert draws.max() < 1
    torch.testing.assert_close(draws.mean(0), torch.full((8,), 0.5), rtol=0, atol=0.01)
    torch.testing.assert_close(draws.var(0), torch.full((8,), 1 / 12), rtol=0, atol=0.002)
    correlations = torch.corrcoef(draws.T) - torch.eye(8)
    assert correlations.abs().max() < 0.03


def test_strength_zero_is_the_evaluation_view() -> None:
    images, rows = photos(3), torch.arange(3)
    quiet = augmenter(strength=0)
    # Up to a hundredth of a grey level, by which the two ways of sampling round differently.
    torch.testing.assert_close(quiet.train_view(images, rows, 9), quiet.eval_view(images), rtol=0, atol=2e-4)


def test_the_evaluation_view_at_the_stored_size_is_the_image_normalised() -> None:
    images = photos(2)
    views = augmenter(image_size=28).eval_view(images)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    expected = (images / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(views, expected, rtol=0, atol=1e-4)


def test_views_are_channels_last_and_of_the_asked_size() -> None:
    views = augmenter().train_view(photos(2), torch.arange(2), 0)
    assert views.shape == (2, 3, 24, 24)
    assert views.is_contiguous(memory_format=torch.channels_last)


def test_rotation_turns_the_image() -> None:
    # A bright right half: over many views, each quadrant is bright about half of the time.
    images = torch.zeros(400, 3, 28, 28, dtype=torch.uint8)
    images[..., 14:] = 255
    views = augmenter().train_view(images, torch.arange(400), 0)
    corners = views[:, 0, [4, 4, -5, -5], [4, -5, 4, -5]] > 0
    torch.testing.assert_close(corners.float().mean(0), torch.full((4,), 0.5), rtol=0, atol=0.1)


def test_no_view_has_black_corners() -> None:
    views = augmenter(strength=1.5).train_view(torch.full((64, 3, 28, 28), 255, dtype=torch.uint8), torch.arange(64), 0)
    lowest_white = (
        0.5 * (1 - 1.35) + 1.0 - 0.15 - 0.5
    ) / 0.2  # darkest that contrast and brightness alone make of white
    assert views[:, 0].min() > lowest_white - 0.5


def test_brightness_and_contrast_stay_in_their_ranges() -> None:
    grey = torch.full((500, 3, 28, 28), 128, dtype=torch.uint8)
    level = augmenter().train_view(grey, torch.arange(500), 0)[:, 0, 12, 12] * 0.2 + 0.5
    assert level.min() > 0.5 - 0.1 - 0.01
    assert level.max() < 0.5 + 0.1 + 0.01
    assert level.max() - level.min() > 0.18


@pytest.mark.parametrize("framing", FRAMINGS)
def test_dihedral_views_are_the_eight_ways_in_which_a_square_can_lie(framing: Framing) -> None:
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    views = list(dihedral_views(square, 8, framing))
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8
    torch.testing.assert_close(views[0], square)
    assert [len(list(dihedral_views(square, count, framing))) for count in (1, 4, 8)] == [1, 4, 8]
    # Turning any of them by a right angle gives another of them.
    for view in views:
        assert any(torch.equal(torch.rot90(view, 1, (2, 3)), other) for other in views)


def test_a_view_is_the_same_within_mixed_precision() -> None:
    images, rows, augment = photos(4), torch.arange(4), augmenter()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, mixed_whole = augment.train_view(images, rows, 0), augment.eval_view(images)
    assert torch.equal(mixed, augment.train_view(images, rows, 0))
    assert torch.equal(mixed_whole, augment.eval_view(images))


def test_four_views_of_a_squeezed_photo_keep_its_proportions() -> None:
    rows = torch.arange(9.0).reshape(3, 3)[:, :1].expand(3, 3)[None, None]  # each row is of one value
    lies = {
        framing: [bool((view == view[..., :1]).all()) for view in dihedral_views(rows, 8, framing)]
        for framing in FRAMINGS
    }
    assert lies["whole"] == [True] * 4 + [False] * 4
    assert lies["centre"] == [True, False] * 4, "as ensembles of before saw it"
