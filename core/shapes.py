"""What JSON from outside must look like, so that a damaged file is refused by its name where it is read."""

from typing import Any

from core.errors import one_line

NUMBER = int | float
_LARGEST = 10**300  # of whole numbers, which JSON doesn't bound: every other number of ours is a float


def find_misfit(value: Any, shape: Any, place: str = "") -> str:
    """Says where a value from JSON departs from a shape; empty if it fits.

    Args:
        value: What was read.
        shape: A type (True and False are no numbers); a list of one shape, for any number of such; a tuple of shapes,
            for exactly these; a dict of the keys that must be there, others being free; or a dict whose one key is
            `str`, for whatever keys there are.
        place: Keys that led to the value, with dots between.

    >>> find_misfit({"best": [{"number": "3"}]}, {"best": [{"number": int}]})
    "best.0.number is '3' and not of type int"
    """
    name = place or "it"
    if not isinstance(shape, dict | list | tuple):
        return "" if _is_of(value, shape) else f"{name} is {_show(value)} and not of type {_name_of(shape)}"
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{name} is not an object"
        shapes = dict.fromkeys(value, shape[str]) if str in shape else shape
        if missing := [key for key in shapes if key not in value]:
            return f"{name} lacks {missing[0]!r}"
        children = [(key, value[key], inner) for key, inner in shapes.items()]
    else:
        if not isinstance(value, list) or (isinstance(shape, tuple) and len(value) != len(shape)):
            return f"{name} is not a list{f' of {len(shape)}' if isinstance(shape, tuple) else ''}"
        inners = shape if isinstance(shape, tuple) else shape * len(value)
        children = [(index, item, inner) for index, (item, inner) in enumerate(zip(value, inners, strict=True))]
    misfits = (find_misfit(item, inner, f"{place}.{key}".lstrip(".")) for key, item, inner in children)
    return next(filter(None, misfits), "")


def _is_of(value: Any, kind: Any) -> bool:
    if kind in (int, NUMBER) and isinstance(value, int):
        return not isinstance(value, bool) and -_LARGEST < value < _LARGEST
    return isinstance(value, kind)


def _show(value: Any) -> str:
    """The beginning of a value; a whole number of more digits than Python converts has none."""
    if isinstance(value, int) and not -_LARGEST < value < _LARGEST:
        return "a number of more than 300 digits"
    return one_line(f"{value!r:.40}")


def _name_of(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))
