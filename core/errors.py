"""The one exception that means: the user gave something we cannot use; and how its sentence names culprits."""

from collections.abc import Collection, Sequence

_MOST_NAMED = 12  # of many culprits an error names no more than these


class InputError(ValueError):
    """Something the user gave breaks a rule.

    The message is one sentence for people: the rule, the value and the way out. The command lines print it without
    a traceback and exit with 2; anything else that is raised is our own defect and keeps its traceback.
    """


class LostError(InputError):
    """Something that isn't on this machine has stopped answering. What ran stays as it is, and goes on once it does."""


def few(names: Collection[str]) -> str:
    """Names for an error message: all of them up to a dozen, then how many more."""
    first = ", ".join(shorten(one_line(name)) for name in list(names)[:_MOST_NAMED])
    return f"{first} and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else first


def in_full(names: Sequence[str], at_most: int = 20) -> str:
    """Names that must not be cut, as paths: some of them in full, then how many more."""
    more = f" and {len(names) - at_most:,} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def counted(number: int, thing: str) -> str:
    """A count with its noun, in the plural where it must be.

    >>> counted(1, "image"), counted(10_015, "image"), counted(2, "copy")
    ('1 image', '10,015 images', '2 copies')
    """
    if number == 1:
        return f"1 {thing}"
    if thing.endswith("y") and thing[-2] not in "aeiou":
        return f"{number:,} {thing[:-1]}ies"
    return f"{number:,} {thing}{'es' if thing.endswith('s') else 's'}"


def shorten(text: str, length: int = 200) -> str:
    """Text cut to a length that a sentence can hold."""
    return text if len(text) <= length else f"{text[:length]}…"


def one_line(text: str) -> str:
    """Text of a file's making, fit for a terminal: line breaks and other control characters become escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
