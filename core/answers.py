"""Answers of others that may never come: of a server that is silent, or a name that no one looks up."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NoAnswerError(TimeoutError):
    """Nothing was said in time."""


def answer_within(seconds: float, ask: Callable[[], T]) -> T:
    """What `ask` gives, if it does in time; else it is left to itself, in a thread that ends with the process.

    Args:
        seconds: How long it may take.
        ask: Asks. It may go on after its time, so that it must not change anything.

    Raises:
        NoAnswerError: It has given nothing by then.
        Exception: Whatever it raised.
    """
    answers, errors = list[T](), list[Exception]()

    def wait() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            errors.append(error)

    # In a thread, because looking up a name has no timeout; a daemon, so that it doesn't delay the end of the process.
    thread = threading.Thread(target=wait, name="asking", daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0]
    raise errors[0] if errors else NoAnswerError(f"no answer in {seconds:g} s")
