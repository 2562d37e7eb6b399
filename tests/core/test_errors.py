import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import counted, few, one_line, shorten


def test_few_names_a_dozen_and_counts_the_rest() -> None:
    assert few(["a", "b"]) == "a, b"
    assert few([str(n) for n in range(12)]).endswith("10, 11")
    assert few([str(n) for n in range(1013)]).endswith("10, 11 and 1,001 more")


@pytest.mark.parametrize(
    ("number", "thing", "words"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (10_015, "image", "10,015 images"),
        (1, "class", "1 class"),
        (7, "class", "7 classes"),
        (2, "copy", "2 copies"),
        (2, "day", "2 days"),
    ],
)
def test_one_thing_is_not_several(number: int, thing: str, words: str) -> None:
    assert counted(number, thing) == words


def test_long_names_are_cut() -> None:
    assert shorten("x" * 201) == "x" * 200 + "…"
    assert len(few(["x" * 5000])) == 201


@given(st.text())
def test_what_a_file_says_stays_on_its_line_and_moves_no_cursor(text: str) -> None:
    line = one_line(text)

    assert line.isprintable()
    assert len(line.splitlines()) <= 1


def test_escapes_show_what_was_there() -> None:
    assert one_line("naevus\n\x1b[2J\u202egpj.exe") == r"naevus\n\x1b[2J\u202egpj.exe"
    assert one_line("Mélanome 黒色腫") == "Mélanome 黒色腫"
