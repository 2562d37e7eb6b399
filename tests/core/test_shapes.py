from typing import Any

import pytest

from core.shapes import NUMBER, find_misfit

SHAPE = {"name": str, "counts": {str: int}, "pairs": [(object, NUMBER)]}
FITTING = {"name": "a", "counts": {"x": 1}, "pairs": [["v", 0.5], [None, 1]], "surplus": 1}


@pytest.mark.parametrize("change", [{}, {"counts": {}}, {"pairs": []}])
def test_what_fits_has_no_misfit(change: dict[str, Any]) -> None:
    assert find_misfit(FITTING | change, SHAPE) == ""


@pytest.mark.parametrize(
    ("change", "misfit"),
    [
        ({"name": 3}, "name is 3 and not of type str"),
        ({"counts": [1]}, "counts is not an object"),
        ({"counts": {"x": "1"}}, "counts.x is '1' and not of type int"),
        ({"pairs": {}}, "pairs is not a list"),
        ({"pairs": [["v", 1], ["v"]]}, "pairs.1 is not a list of 2"),
        ({"counts": {"x": True}}, "counts.x is True and not of type int"),
        ({"counts": {"x": 10**5000}}, "counts.x is a number of more than 300 digits and not of type int"),
        ({"name": ["\x1b[2J"]}, r"name is ['\x1b[2J'] and not of type str"),
        ({"pairs": [["v", "w"]]}, "pairs.0.1 is 'w' and not of type int | float"),
    ],
)
def test_misfit_is_told_with_its_place(change: dict[str, Any], misfit: str) -> None:
    assert find_misfit(FITTING | change, SHAPE) == misfit


def test_missing_key_is_named() -> None:
    assert find_misfit({"a": {"b": 1}}, {"a": {"c": int}}) == "a lacks 'c'"
    assert find_misfit([], {"a": int}) == "it is not an object"
