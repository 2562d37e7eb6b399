"""Writes docs/layouts.md: a small set of every layout, and what `python -m core.datasets` prints of it.

python -m tests.layouts_page
"""

import contextlib
import io
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core import cli
from core.datasets import build_parser, main
from core.files import written_aside
from tests.fixtures import arrays, folders, tabular

PAGE = Path(__file__).resolve().parent.parent / "docs" / "layouts.md"
_HEAD = """# Layouts

What `--data` recognises, by columns and structure and never by a file's name alone. Each set below is a small one of
random pictures, made by [`tests/fixtures`](../tests/fixtures); the command was run on it, and this page was written,
by `python -m tests.layouts_page`. A test fails when a command prints something else.

Besides: any of them inside further folders, with spaces in their names, with a byte-order mark, semicolons or tabs in
their tables. Masks (`…_segmentation.png`) beside the images are passed over. `--data A --data B` merges sets, and an
image that is in both counts once. `--fix cleaned.csv` writes what can be used as a manifest of its own.

"""


@dataclass(frozen=True)
class Case:
    """One layout.

    Attributes:
        name: What people call it.
        marks: What it is recognised by, in Markdown.
        place: Name of the folder or file that is given.
        write: Writes it at a path.
        flags: Further arguments of the command.
    """

    name: str
    marks: str
    place: str
    write: Callable[[Path], object]
    flags: tuple[str, ...] = ()
    beside: tuple[str, Callable[[Path], object]] | None = None  # another set, given together with this one


CASES = (
    Case("HAM10000", "columns `image_id`, `dx`, and `lesion_id`", "ham10000", tabular.write_ham10000),
    Case(
        "HAM10000 from Dataverse, with the ISIC 2018 test",
        "the same, in files without a suffix; the test's table in the same columns",
        "dataverse_files",
        tabular.write_ham10000_dataverse,
    ),
    Case(
        "HAM10000 from Kaggle",
        "the same; each image twice, and tables of pixels, which are passed over",
        "skin-cancer-mnist-ham10000",
        tabular.write_ham10000_kaggle,
    ),
    Case(
        "HAM10000, merged and in lower case", "the same, wherever the images lie", "ham", tabular.write_ham10000_merged
    ),
    Case(
        "ISIC 2018 Task 3, all parts",
        "`image` and one column of 1 and 0 for each class; lesions from a table of `image`, `lesion_id`",
        "isic2018",
        partial(tabular.write_isic2018, test=True),
    ),
    Case(
        "ISIC 2018 Task 3, training alone, no lesions",
        "the same",
        "isic2018-training",
        partial(tabular.write_isic2018, groupings=False),
    ),
    Case("ISIC 2018 Task 3 in the format of HAM10000", "columns as HAM10000", "isic2018-dx", tabular.write_isic2018_dx),
    Case("ISIC 2019", "as ISIC 2018 Task 3, with `SCC` and `UNK`", "isic2019", tabular.write_isic2019),
    Case("ISIC 2020", "columns `image_name`, `patient_id`, `target`", "isic2020", tabular.write_isic2020),
    Case("ISIC Archive export", "columns `isic_id`, `diagnosis_1` and on", "ISIC-images", tabular.write_isic_archive),
    Case(
        "ISIC Archive export, another level of diagnosis",
        "the same",
        "ISIC-images",
        tabular.write_isic_archive,
        ("--label-column", "diagnosis_1"),
    ),
    Case(
        "DermaMNIST, any size",
        "arrays `train_images`, `train_labels` and on",
        "dermamnist.npz",
        arrays.write_dermamnist,
    ),
    Case(
        "Kaggle's nine classes",
        "`Train/<class>/…`, `Test/<class>/…`, at any depth",
        "skin-cancer9-classesisic",
        folders.write_kaggle_nine,
    ),
    Case("Class folders", "`<class>/…`", "lesions", folders.write_class_folders),
    Case(
        "Class folders with lesions",
        "the same, and a table of an image and a group column",
        "lesions-grouped",
        folders.write_class_folders_with_groups,
    ),
    Case("Class folders with official parts", "`train/<class>/…` and on", "lesions-split", folders.write_split_folders),
    Case(
        "Any table",
        "a column of paths and one of labels, whose names can be guessed",
        "clinic",
        tabular.write_plain_table,
    ),
    Case(
        "Any table, in its own words",
        "the columns that are named",
        "registry",
        tabular.write_own_words,
        ("--image-column", "scan", "--label-column", "outcome", "--group-column", "person"),
    ),
    Case(
        "Two sets together",
        "each by itself; images that are in both count once",
        "isic2019",
        tabular.write_isic2019,
        beside=("ham10000", tabular.write_ham10000_of_2019),
    ),
)


def compose() -> str:
    """The whole page."""
    overview = ["| set | recognised by | `layout` |", "|---|---|---|"]
    sections = []
    for case in CASES:
        command, printed = run(case)
        layout = re.search(r"^layout +(.*), because", printed, re.MULTILINE)
        overview.append(f"| {case.name} | {case.marks} | {layout[1] if layout else ''} |")
        sections.append(f"## {case.name}\n```\n$ {command}\n{printed}```\n")
    return _HEAD + "\n".join(overview) + "\n\n" + "\n".join(sections)


def run(case: Case) -> tuple[str, str]:
    """The command on a fresh set, and what it printed, with what differs between machines taken out."""
    with tempfile.TemporaryDirectory() as parent:
        place = Path(parent).resolve() / case.place
        case.write(place)
        others = []
        if case.beside is not None:
            name, write = case.beside
            write(place.parent / name)
            others.append(name)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            places = [str(place), *(str(place.parent / name) for name in others)]
            status = cli.run(main, build_parser(), [*places, *case.flags])
        assert status == 0, printed.getvalue()
        text = re.sub(r"^(folder +).*/arrays/\S+", r"\1<cache>/arrays/…", printed.getvalue(), flags=re.MULTILINE)
        text = text.replace(str(place.parent), "/data")
        text = re.sub(r"^(fingerprint +)[0-9a-f]+", r"\1…", text, flags=re.MULTILINE)
    return " ".join(["python -m core.datasets", case.place, *others, *case.flags]), text


if __name__ == "__main__":
    with written_aside(PAGE) as aside:
        aside.write_text(compose(), encoding="utf-8")
