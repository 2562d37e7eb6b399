"""What stays in a limited space, and what leaves."""

from hypothesis import given
from hypothesis import strategies as st

from core.ledger import Holding, Ledger


def put(ledger: Ledger, key: str, size: int, saved_s: float) -> list[str] | None:
    leaving = ledger.admit(key, Holding(size=size, saved_s=saved_s))
    if leaving is not None:
        ledger.holdings[key].whole = True
    return leaving


def test_what_saves_least_per_byte_leaves_first() -> None:
    ledger = Ledger(limit=100)
    assert put(ledger, "large", 60, 6.0) == []
    assert put(ledger, "dense", 30, 9.0) == []
    assert put(ledger, "new", 50, 10.0) == ["large"]
    assert set(ledger.holdings) == {"dense", "new"}


def test_a_newcomer_worth_less_than_what_is_there_is_refused() -> None:
    ledger = Ledger(limit=100)
    put(ledger, "dense", 100, 50.0)
    assert put(ledger, "new", 100, 10.0) is None
    assert set(ledger.holdings) == {"dense"}


def test_use_keeps_a_set_and_disuse_lets_it_go() -> None:
    ledger = Ledger(limit=200)
    put(ledger, "used", 100, 10.0)
    put(ledger, "unused", 100, 15.0)
    for round_number in range(20):
        ledger.touch("used")
        if put(ledger, f"new {round_number}", 100, 9.0) is not None:
            break
    assert "used" in ledger.holdings
    assert "unused" not in ledger.holdings


def test_what_is_still_being_made_never_leaves() -> None:
    ledger = Ledger(limit=100)
    assert ledger.admit("half", Holding(size=100, saved_s=0.1)) == []
    assert ledger.admit("new", Holding(size=100, saved_s=10.0)) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 120), st.floats(0, 100)), max_size=60))
def test_the_limit_holds_whatever_comes(events: list[tuple[int, int, float]]) -> None:
    ledger = Ledger(limit=100)
    for number, size, saved_s in events:
        key = str(number)
        if key in ledger.holdings:
            ledger.touch(key)
        else:
            put(ledger, key, size, saved_s)
        assert ledger.used <= 100
