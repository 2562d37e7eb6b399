"""Inputs that are nearly right: real files with a few changes, so that readers get past their first check."""

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# At the edges of signs, widths and buffers.
NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
RAW_JSON = (
    "NaN",
    "-Infinity",
    "1e999",
    "-0",
    "9" * 400,
    "9" * 5000,
    "1E-400",
    '"\\ud800"',
    '"\\u0000"',
    '"\\u001b[2J"',
    "[" * 900 + "]" * 900,
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 100_000 + "1" + "}" * 100_000,
    "[1,",
    "",
)
_MARK = "\u0001raw\u0001"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([10**6, -1, 2**31, 2**63, 10**30, 10**400])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../../x", "/etc/passwd", "a\0b", "<script>", "[/]", "\x1b[2J", "é" * 300, "$x$"]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn, originals: Sequence[bytes], tokens: Sequence[bytes] = (), *, head: int = 200) -> bytes:
    """One of the originals after one to six changes.

    Args:
        draw: Given by Hypothesis.
        originals: Whole files.
        tokens: What the format gives a meaning to, to be inserted.
        head: Bytes at the beginning in which half of the changes are made, as headers decide most.
    """
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        _change(draw, content, originals, tokens, head)
    return bytes(content)


def _change(
    draw: st.DrawFn, content: bytearray, originals: Sequence[bytes], tokens: Sequence[bytes], head: int
) -> None:
    place = draw(st.integers(0, min(head, len(content))) | st.integers(0, len(content)))
    length = draw(st.sampled_from([1, 2, 4, 8, 64]) | st.integers(0, 2000))
    kinds = ["flip", "set", "cut", "drop", "repeat", "insert", "splice", "number", "token"]
    match draw(st.sampled_from(kinds if tokens else kinds[:-1])):
        case "flip" if place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        case "set" if place < len(content):
            content[place] = draw(st.sampled_from([0, 0xFF, 0x80, 0x20, 0x0A]) | st.integers(0, 255))
        case "cut":
            del content[place:]
        case "drop":
            del content[place : place + length]
        case "repeat":
            content[place:place] = content[place : place + length] * draw(st.integers(1, 20))
        case "insert":
            content[place:place] = draw(st.binary(max_size=20))
        case "splice":
            other = draw(st.sampled_from(originals))
            start = draw(st.integers(0, len(other)))
            content[place : place + length] = other[start : start + length]
        case "number":
            layout = draw(st.sampled_from(["<H", ">H", "<I", ">I", "<Q", ">Q"]))
            value = draw(st.sampled_from([*NUMBERS, len(content)]))
            packed = struct.pack(layout, value & (0xFFFF if layout[1] == "H" else 0xFFFFFFFFFFFFFFFF >> 32))
            content[place : place + len(packed)] = packed
        case "token":
            content[place:place] = draw(st.sampled_from(tokens))


def with_checksums(png: bytes) -> bytes:
    """A PNG whose chunks have their right checksums again, so that what was changed in them gets read."""
    mended, place = bytearray(png), 8
    while place + 12 <= len(mended):
        length = int.from_bytes(mended[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(mended):
            break
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(mended[place + 4 : end]))
        place = end + 4
    return bytes(mended)


@st.composite
def changed_json(draw: st.DrawFn, originals: Sequence[Any]) -> bytes:
    """A JSON document one to three of whose values were removed, replaced, or replaced by raw text."""
    document = json.loads(json.dumps(draw(st.sampled_from(originals))))
    raw = draw(st.sampled_from(RAW_JSON))
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(_places(document) or [([document], 0)]))
        match draw(st.sampled_from(["remove", "replace", "replace", "raw", "add"])):
            case "remove":
                del holder[key]
            case "replace":
                holder[key] = draw(json_values)
            case "raw":
                holder[key] = _MARK
            case "add" if isinstance(holder, dict):
                holder[draw(st.text(max_size=5))] = draw(json_values)
    text = json.dumps(document, indent=draw(st.sampled_from([None, 1])))
    return text.replace(json.dumps(_MARK), raw).encode()


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every value of a document, as what holds it and its key there."""
    keys: list[Any] = list(document) if isinstance(document, dict) else []
    keys = list(range(len(document))) if isinstance(document, list) else keys
    return [(document, key) for key in keys] + [place for key in keys for place in _places(document[key])]
