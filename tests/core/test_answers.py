"""Answers of others that may never come."""

import threading
import time

import pytest

from core.answers import NoAnswerError, answer_within


def test_an_answer_and_an_error_are_those_of_who_was_asked() -> None:
    assert answer_within(5, lambda: "yes") == "yes"
    assert answer_within(5, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        answer_within(5, lambda: 1 / 0)


def test_nobody_waits_for_who_says_nothing() -> None:
    over = threading.Event()
    start_s = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"no answer in 0\.1 s"):
        answer_within(0.1, over.wait)
    assert time.monotonic() - start_s < 5
    over.set()
