"""How often a JPEG makes its decoder walk over the whole image, told from its markers without decoding it.

A progressive JPEG refines the image scan by scan. Nothing in the format limits their number, a scan may hold no data,
and a decoder takes as long for each as for the image: a file of 10 kB can take ten seconds, one of 1 MB a quarter of an
hour.
"""

import re

# Inside a scan's data, 0xFF is followed by 0x00 or by the number of a restart.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_START_OF_IMAGE, _TEMPORARY, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0x01, 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those three are tables, though their numbers lie between
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})


def count_scans(content: bytes) -> int:
    """The scans of a JPEG's first image; 1 where a decoder stops after the first, whatever follows."""
    scans, place, frame, components = 0, 0, 0, 0
    while found := _MARKER.search(content, place):
        marker, place = found[1][0], found.end()
        if marker == _END_OF_IMAGE:
            break
        if marker in (_START_OF_IMAGE, _TEMPORARY):
            continue  # these have no content
        if marker in _FRAMES:
            frame, components = marker, _byte(content, place + 7)
        elif marker == _START_OF_SCAN:
            scans += 1
            if frame not in _PROGRESSIVE and _byte(content, place + 2) == components:
                break
        place += int.from_bytes(content[place : place + 2])
    return scans


def _byte(content: bytes, place: int) -> int:
    return content[place] if place < len(content) else 0
