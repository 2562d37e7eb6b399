"""The readers of tables: whatever the bytes, labelled images that are there, or a refusal."""

from functools import cache

from hypothesis import strategies as st

from core.dataspec import Columns
from core.errors import InputError
from core.layouts import recognise
from core.layouts.cleaned import is_cleaned, read_cleaned
from core.listing import Listing
from core.tables import open_table
from tests.fuzz.mutations import mutated
from tests.fuzz.target import Target, assert_one_sentence, no_hang, scratch

_IMAGES = tuple(
    sorted(f"{folder}/ISIC_000000{number}{end}.jpg" for folder in "ab" for number in range(4) for end in ("", "_x"))
)
_IDS = [f"ISIC_000000{number}" for number in range(4)]


def _table(header: str, *rows: str, end: str = "\n") -> bytes:
    return end.join([header, *rows, ""]).encode()


_ORIGINALS = (
    _table(
        "lesion_id,image_id,dx,dx_type,age,sex,localization",
        *(f"HAM_{n},{name}_x,{'ab'[n % 2]},histo,50.0,male,back" for n, name in enumerate(_IDS)),
    ),
    _table("image,MEL,NV,BCC", *(f"a/{name},{n % 2}.0,{1 - n % 2}.0,0.0" for n, name in enumerate(_IDS))),
    _table("image,MEL,AK,UNK", *(f"{name}_x,{int(n > 1)},{int(n == 1)},{int(n < 1)}" for n, name in enumerate(_IDS))),
    _table("image_name,patient_id,sex,target", *(f"{name}_x,IP_{name},,{n % 2}" for n, name in enumerate(_IDS))),
    _table("isic_id;lesion_id;diagnosis_1", *(f"{name}_x;IL_{name};{'AB'[n % 2]}" for n, name in enumerate(_IDS))),
    b"\xef\xbb\xbf" + _table('"file";"label"', *(f'"b/{name}.jpg";"c""{name}"' for name in _IDS), end="\r\n"),
    _table("path\tclass\tsplit", *(f"a/{name}.jpg\t{'xy'[n % 2]}\ttrain" for n, name in enumerate(_IDS)), end="\r"),
    _table("image,group", *(f"a/{name}.jpg,{name}" for name in _IDS)),
    _table("image,label,group,split,sha256", *(f"a/{name}.jpg,x,,train,{'0' * 64}" for name in _IDS)),
    _table("image,label", *(f"{name},x" for name in _IDS)).decode().encode("utf-16"),
)
_TOKENS = (
    b'"',
    b'""',
    b'",\n',
    b",",
    b";",
    b"\t",
    b"|",
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xfe\xff",
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"../../../etc/passwd",
    b"/etc/passwd",
    b"image",
    b"label",
    b"lesion_id",
    b"nan",
    b"1.0",
    b"1e999",
    b"score_weight",
    b"a" * 140_000,
    b"image," * 3000,
    b"\x1b[2J",
    "é".encode("latin-1"),
)
_COLUMNS = st.sampled_from([Columns(), Columns(), Columns("image", "label", ""), Columns("", "dx", "lesion_id")])


@cache
def _listing() -> Listing:
    root = scratch("tables")
    for image in _IMAGES:
        (root / image).parent.mkdir(exist_ok=True)
        (root / image).write_bytes(b"x" * len(image))
    return Listing(root, _IMAGES, ("metadata.csv",))


def check(drawn: tuple[bytes, Columns]) -> None:
    """Gives bytes as the only table of a folder, and as a manifest of their own."""
    content, columns = drawn
    listing = _listing()
    path = listing.root / "metadata.csv"
    path.write_bytes(content)
    with no_hang():
        try:
            found = recognise(listing, columns)
        except InputError as error:
            assert_one_sentence(error)
        else:
            assert {row.path for row in found.rows} <= set(_IMAGES)
            assert len({row.path for row in found.rows}) == len(found.rows)
            assert not {row.path for row in found.rows} & set(found.unlabelled)
    with no_hang():
        try:
            table = open_table(path)
            if table is not None:
                lines, _ = table.read(table.columns[:3])
                assert all(len(line.values) <= 3 for line in lines)
            if table is not None and is_cleaned(table):
                found, _ = read_cleaned(path)
                assert all(not row.path.startswith("/") and ".." not in row.path.split("/") for row in found.rows)
        except InputError as error:
            assert_one_sentence(error)


TARGET = Target("tables", 0.25, st.tuples(mutated(_ORIGINALS, _TOKENS, head=80), _COLUMNS), check)
