import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from core.archs import Arch
from core.errors import InputError
from core.framing import Framing
from ensemble.decision import PLAIN, Rule
from ensemble.operating import OperatingPoint
from ensemble.spec import EnsembleSpec, MemberSpec

ARCH = Arch(name="a", timm_name="a", image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), weight_tag=None)

POINT = {"class_name": "mel", "min_sensitivity": 0.9, "threshold": 0.25}


@pytest.fixture
def spec() -> EnsembleSpec:
    member = MemberSpec(
        study="a",
        trial=3,
        arch=ARCH,
        files=("members/a-0003.safetensors",),
        weight=1.0,
        prior=(0.25, 0.75),
        recall=0.8,
        recall_interval=(0.7, 0.9),
        best_epoch=1,
        config={"lr": 0.01},
    )
    return EnsembleSpec(
        classes=("mel", "nv"),
        members=(member,),
        left_out=(("b #1", "not better than chance"),),
        demo=False,
        data={"root": "/data"},
        split={"seed": 0},
        versions={"torch": "2"},
        command="python -m ensemble.build studies",
        created="2026-01-01T00:00:00Z",
    )


def rewrite(folder: Path, **changes: Any) -> None:
    fields = json.loads((folder / "ensemble.json").read_text())
    (folder / "ensemble.json").write_text(json.dumps({**fields, **changes}))


def test_write_then_read_is_the_identity(spec: EnsembleSpec, tmp_path: Path) -> None:
    spec.write(tmp_path)
    assert EnsembleSpec.read(tmp_path) == spec


def test_rule_and_what_was_fitted_are_kept(spec: EnsembleSpec, tmp_path: Path) -> None:
    rule = Rule(tau=0.8, vote="geometric", views=4, temperature=1.5)
    points = (OperatingPoint(**POINT),)
    fitted = dataclasses.replace(spec, rule=rule, fitted={"folds": 5}, operating_points=points)
    fitted.write(tmp_path)
    assert EnsembleSpec.read(tmp_path) == fitted


def test_file_of_the_first_format_is_read_as_the_rule_that_fits_nothing(spec: EnsembleSpec, tmp_path: Path) -> None:
    spec.write(tmp_path)
    fields = json.loads((tmp_path / "ensemble.json").read_text())
    del fields["fitted"], fields["operating_points"]
    decision = {"correction": "p / prior", "vote": "mean", "choice": "argmax"}
    (tmp_path / "ensemble.json").write_text(json.dumps({**fields, "format": 1, "decision": decision}))
    assert EnsembleSpec.read(tmp_path) == spec
    assert spec.rule == PLAIN


@pytest.mark.parametrize(
    ("views", "framing", "is_read"), [(4, "whole", False), (8, "whole", True), (4, "centre", True)]
)
def test_four_views_of_whole_photos_were_others_in_the_third_format(
    spec: EnsembleSpec, tmp_path: Path, views: int, framing: Framing, is_read: bool
) -> None:
    member = dataclasses.replace(spec.members[0], arch=dataclasses.replace(ARCH, framing=framing))
    dataclasses.replace(spec, members=(member,), rule=Rule(views=views)).write(tmp_path)
    rewrite(tmp_path, format=3)
    if is_read:
        EnsembleSpec.read(tmp_path)
        return
    with pytest.raises(InputError, match=r"four views of whole photos must be of format 4, but .* has format=3"):
        EnsembleSpec.read(tmp_path)


def test_members_of_the_second_format_see_the_centre_of_photos(spec: EnsembleSpec, tmp_path: Path) -> None:
    spec.write(tmp_path)
    fields = json.loads((tmp_path / "ensemble.json").read_text())
    for member in fields["members"]:
        del member["arch"]["framing"]
    (tmp_path / "ensemble.json").write_text(json.dumps({**fields, "format": 2}))
    assert {member.arch.framing for member in EnsembleSpec.read(tmp_path).members} == {"centre"}
    fields["members"][0]["arch"]["framing"] = "half"
    (tmp_path / "ensemble.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="framing must be whole or centre, but is half"):
        EnsembleSpec.read(tmp_path)


def test_folder_without_ensemble_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`ensemble` must be a folder with ensemble.json, but .* has none"):
        EnsembleSpec.read(tmp_path)


def test_newer_format_is_refused(spec: EnsembleSpec, tmp_path: Path) -> None:
    spec.write(tmp_path)
    rewrite(tmp_path, format=5)
    with pytest.raises(InputError, match=r"format 4 or older, but .* has format=5\. Update this project"):
        EnsembleSpec.read(tmp_path)


def test_other_decision_rule_is_refused(spec: EnsembleSpec, tmp_path: Path) -> None:
    spec.write(tmp_path)
    rewrite(tmp_path, decision={"vote": "geometric"})
    with pytest.raises(InputError, match="`decision` must be"):
        EnsembleSpec.read(tmp_path)


def test_file_that_is_cut_is_refused(spec: EnsembleSpec, tmp_path: Path) -> None:
    spec.write(tmp_path)
    path = tmp_path / "ensemble.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(InputError, match="must be JSON, but it is damaged"):
        EnsembleSpec.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": None}, "format is None and not of type int"),
        ({"members": []}, "it has no members"),
        ({"members": [{"study": "a"}]}, "it lacks 'trial'"),
        ({"members": 3}, "members is 3 and not of type list"),
        ({"classes": ["mel"]}, "classes must be two names or more"),
        ({"classes": ["mel", "mel"]}, "classes must be two names or more, each once"),
        ({"left_out": [["a", "b", "c"]]}, "left_out.0 is not a list of 2"),
        ({"classes": ["mel", "nv", "df"]}, "the prior of a #3 must be 3 numbers"),
        ({"operating_points": [POINT, POINT]}, "its operating points must be of its classes, each once"),
        ({"operating_points": [{**POINT, "class_name": "df"}]}, "its operating points must be of its classes"),
        ({"operating_points": [{**POINT, "threshold": 2}]}, "the numbers of its operating points must be from 0 to 1"),
        ({"operating_points": [{"class_name": "mel"}]}, "operating_points.0 lacks 'min_sensitivity'"),
        ({"operating_points": [{**POINT, "surplus": 1}]}, "unexpected keyword argument 'surplus'"),
    ],
)
def test_damage_is_told_with_its_reason(
    spec: EnsembleSpec, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    spec.write(tmp_path)
    rewrite(tmp_path, **change)
    with pytest.raises(InputError, match=f"it is damaged: .*{re.escape(reason)}"):
        EnsembleSpec.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"files": ["../../secret"]}, "must lie in its folder"),
        ({"files": ["a", "/etc/passwd"]}, "must lie in its folder"),
        ({"files": 3}, "files is not a list"),
        ({"files": []}, "has no weights"),
        ({"files": ["a", "b"]}, "must have a prior for each of its networks"),
        ({"files": ["a", "b"], "network_priors": [[0.2, 0.8], [2, 0.8]]}, "the prior of a #3 must be 2 numbers"),
        ({"arch": {**dataclasses.asdict(ARCH), "timm_name": "hf-hub:x/y"}}, "must be a timm model, but is hf-hub:x/y"),
        ({"arch": {**dataclasses.asdict(ARCH), "timm_name": 3}}, "arch: timm_name is 3 and not of type str"),
        ({"weight": 0}, "must be above 0"),
        ({"weight": "1"}, "weight is '1' and not of type int | float"),
        ({"prior": ["a", "b"]}, "prior.0 is 'a' and not of type int"),
        ({"surplus": 1}, "unexpected keyword argument 'surplus'"),
    ],
)
def test_damaged_member_is_told_with_its_reason(
    spec: EnsembleSpec, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    spec.write(tmp_path)
    member = json.loads((tmp_path / "ensemble.json").read_text())["members"][0]
    rewrite(tmp_path, members=[{**member, **change}])
    with pytest.raises(InputError, match=f"it is damaged: .*{re.escape(reason)}"):
        EnsembleSpec.read(tmp_path)


def test_missing_field_is_named(spec: EnsembleSpec, tmp_path: Path) -> None:
    spec.write(tmp_path)
    fields = json.loads((tmp_path / "ensemble.json").read_text())
    del fields["data"]
    (tmp_path / "ensemble.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="it is damaged: it lacks 'data'"):
        EnsembleSpec.read(tmp_path)
