import argparse
from pathlib import Path

import pytest

from core.dataspec import Columns, DataSpec, add_data_arguments, read_data_arguments
from core.errors import InputError


def parse(*words: str) -> DataSpec:
    parser = argparse.ArgumentParser()
    add_data_arguments(parser, help="")
    args = parser.parse_args(words)
    return read_data_arguments(args, args.data)


def test_flags_say_what_they_were_made_of() -> None:
    spec = parse("--data", "a b", "--data", "c", "--label-column", "dx", "--group-column", "patient")

    assert spec == DataSpec((Path("a b"), Path("c")), Columns(label="dx", group="patient"))
    assert spec.flags == "--data 'a b' --data c --label-column dx --group-column patient"


def test_a_spec_survives_study_json_with_absolute_places() -> None:
    spec = parse("--data", "a", "--image-column", "file")

    assert DataSpec.from_dict(spec.to_dict()) == DataSpec((Path("a").absolute(),), Columns(image="file"))


@pytest.mark.parametrize(
    "fields",
    [
        {"places": [], "columns": {}},
        {"places": "a", "columns": {}},
        {"places": [1], "columns": {}},
        {"places": ["/a\0b"], "columns": {}},
        {"places": ["/a\ud800"], "columns": {}},
        {"places": ["a"], "columns": {"image": 1}},
        {"places": ["a"], "columns": {"colour": "red"}},
        {"places": ["a"], "columns": []},
    ],
)
def test_other_shapes_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"places must be|columns must be|unexpected keyword"):
        DataSpec.from_dict(fields)


def test_one_place_by_two_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)

    with pytest.raises(InputError, match="must name different places, but got"):
        DataSpec((tmp_path, tmp_path / "link"))
