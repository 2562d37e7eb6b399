"""What weights say of the images that their pre-training was kept apart from."""

import pytest

from core.errors import InputError
from core.kept_apart import refuse_known, write_apart

SEALED = ["0a" * 32, "0b" * 32]
NAMES = ["val.jpg", "test.jpg"]


def refuse(apart: str | None) -> None:
    refuse_known(apart, origin="a file", sha256=SEALED, names=NAMES, parts="the test part", way_out="Take others.")


def test_weights_of_others_and_those_kept_apart_from_everything_are_taken():
    refuse(None)
    refuse(write_apart([*SEALED, "0c" * 32]))


def test_weights_that_may_know_an_image_are_refused_by_its_name():
    with pytest.raises(
        InputError, match=r"kept apart from the test part, but .* 1 image of it: test\.jpg\. Take others"
    ):
        refuse(write_apart(SEALED[:1]))
    with pytest.raises(InputError, match="2 images of it"):
        refuse(write_apart([]))


def test_of_two_pre_trainings_only_what_both_were_kept_apart_from_counts():
    refuse(write_apart(SEALED, earlier=write_apart(SEALED)))
    with pytest.raises(InputError, match=r": val\.jpg\."):
        refuse(write_apart(SEALED, earlier=write_apart(SEALED[1:])))


def test_damage_is_told():
    with pytest.raises(InputError, match="in a damaged way"):
        refuse("?")
