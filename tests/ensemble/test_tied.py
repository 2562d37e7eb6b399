"""Who may be as good as the best of its architecture."""

import numpy as np

from ensemble.tied import behind_best

LABELS = np.arange(300) % 3
GROUPS = [f"lesion {n}" for n in range(300)]
EVEN = np.full((4, 3), 1 / 3)


def believing(shares: list[float]) -> np.ndarray:
    """Members that are right about a share of the images."""
    probs_MNC = np.full((len(shares), 300, 3), 0.1)
    for m, share in enumerate(shares):
        right_N = np.random.default_rng(m).random(300) < share
        probs_MNC[m, np.arange(300), np.where(right_N, LABELS, (LABELS + 1) % 3)] = 0.8
    return probs_MNC


def test_the_best_is_whoever_is_best_on_these_images() -> None:
    # Ranked by something else: the second is far better here, and must not be left out for it.
    behind = behind_best(believing([0.6, 0.9, 0.88, 0.5]), EVEN, ["a", "a", "a", "b"], LABELS, GROUPS)
    assert [each.best for each in behind] == [1, 1, 1, 3]
    assert [each.by.is_tie for each in behind] == [False, True, True, True]
    assert behind[0].by.value > 0.2
    assert behind[1].by.value == behind[3].by.value == 0


def test_of_equals_the_first_is_the_best() -> None:
    probs_MNC = np.concatenate([believing([0.7])] * 2)
    assert [each.best for each in behind_best(probs_MNC, EVEN[:2], ["a", "a"], LABELS, GROUPS)] == [0, 0]
