import json
from pathlib import Path
from typing import Any

import pytest

from core.artifacts import StudiesFolder
from core.errors import InputError
from ensemble.members import choose_members
from ensemble.studies import read_studies


def names_of(studies: Any, **choice: Any) -> list[str]:
    return [member.name for member in choose_members(read_studies(studies.folder), **choice).members]


def test_best_complete_trial_of_each_architecture_takes_part(studies: Any, trial: Any) -> None:
    studies.add("a", [trial(0.7), trial(0.8), trial(0.95, state="pruned")])
    studies.add("b", [trial(0.6), trial(0.5)], arch="test_resnet")
    assert names_of(studies) == ["a #1", "b #0"]


def test_top_k_is_over_all_studies_of_an_architecture(studies: Any, trial: Any) -> None:
    studies.add("a", [trial(0.7), trial(0.9)])
    studies.add("again", [trial(0.8), trial(0.6)])
    assert names_of(studies, top_k=3) == ["a #1", "again #0", "a #0"]


def test_archs_choose(studies: Any) -> None:
    studies.add("a")
    studies.add("b", arch="test_resnet")
    assert names_of(studies, archs=["test_resnet"]) == ["b #0"]
    with pytest.raises(InputError, match=r"`--archs` must be among test_efficientnet, test_resnet, but got .*vgg"):
        names_of(studies, archs=["vgg"])


def test_an_architecture_that_is_asked_for_twice_votes_once(studies: Any) -> None:
    studies.add("a")
    assert names_of(studies, archs=["test_efficientnet", "test_efficientnet"]) == ["a #0"]


def test_an_alias_and_the_model_that_it_stands_for_are_one_architecture(studies: Any, trial: Any) -> None:
    for name, arch, recall in (("a", "mobilenet", 0.8), ("b", "mobilenetv2_100", 0.9)):
        path = studies.add(name, [trial(recall)]).root / "study.json"
        study = json.loads(path.read_text())
        study["arch"] |= {"name": arch, "timm_name": "mobilenetv2_100"}
        path.write_text(json.dumps(study))
    assert names_of(studies) == ["b #0"]
    assert names_of(studies, archs=["mobilenetv2_100", "mobilenet"]) == ["b #0"]
    only_a = read_studies(studies.folder, ["a"])
    for asked in ("mobilenet", "mobilenetv2_100"):
        assert [member.name for member in choose_members(only_a, archs=[asked]).members] == ["a #0"]
    only_b = read_studies(studies.folder, ["b"])
    assert [member.name for member in choose_members(only_b, archs=["mobilenet"]).members] == ["b #0"]


def test_better_trial_without_weights_is_passed_over_with_a_warning(
    studies: Any, trial: Any, caplog: pytest.LogCaptureFixture
) -> None:
    studies.add("a", [trial(0.9, keeps_model=False), trial(0.8)])
    assert names_of(studies) == ["a #1"]
    assert "a #0 is the best of test_efficientnet, but its weights are deleted; a #1 is taken" in caplog.text


def test_deleted_weights_are_refused_with_the_way_out(studies: Any, trial: Any) -> None:
    studies.add("a", [trial(0.9, keeps_model=False)])
    with pytest.raises(InputError, match="those of all 1 complete trials of test_efficientnet are deleted"):
        names_of(studies)


def test_more_trials_than_there_are_are_refused(studies: Any, trial: Any) -> None:
    studies.add("a", [trial(0.9), trial(0.8)])
    with pytest.raises(InputError, match=r"`--top-k` must be at most 2, .* but got --top-k 3"):
        names_of(studies, top_k=3)


def test_member_whose_interval_reaches_chance_is_left_out_and_said_so(studies: Any, trial: Any) -> None:
    studies.add("a", [trial(0.9)])
    studies.add("b", [trial(0.37, half_width=0.04)], arch="test_resnet")  # chance is 1 / 3
    selection = choose_members(read_studies(studies.folder))
    assert [member.name for member in selection.members] == ["a #0"]
    expected = "not better than chance: validation recall 37.0%, interval 33.0% to 41.0%, reaches down to 33.3%"
    assert selection.left_out == [("b #0", expected)]


def test_member_just_above_chance_takes_part(studies: Any, trial: Any) -> None:
    studies.add("a", [trial(0.38, half_width=0.04)])
    assert names_of(studies) == ["a #0"]


def test_nobody_better_than_chance_is_refused(studies: Any, trial: Any) -> None:
    studies.add("a", [trial(0.3)])
    with pytest.raises(InputError, match="none is \\(a #0: not better than chance"):
        names_of(studies)


def test_architecture_without_complete_trials_is_left_out_unless_asked_for(studies: Any, trial: Any) -> None:
    studies.add("a")
    studies.add("b", [trial(0.9, state="pruned")], arch="test_resnet")
    selection = choose_members(read_studies(studies.folder))
    assert selection.left_out == [("test_resnet", "no trial of it is complete yet")]
    with pytest.raises(InputError, match="`--archs` must have complete trials, but test_resnet has none"):
        choose_members(read_studies(studies.folder), archs=["test_resnet"])


def test_no_complete_trials_at_all_are_refused(studies: Any) -> None:
    studies.add("a", [])
    with pytest.raises(InputError, match="no trial of it is complete yet"):
        names_of(studies)


def test_demo_studies_give_way_to_others(studies: Any) -> None:
    studies.add("demo-a", demo=True, data={"fingerprint": "other"})
    assert names_of(studies) == ["demo-a #0"]
    studies.add("a")
    assert names_of(studies) == ["a #0"]


def test_studies_of_other_data_are_refused_with_the_choices(studies: Any) -> None:
    studies.add("a")
    studies.add("b", data={"fingerprint": "other", "root": "/elsewhere"})
    with pytest.raises(
        InputError, match=r"2 kinds\. Choose one of them: --study a \(.*\); --study b \(/elsewhere, 96 im"
    ):
        read_studies(studies.folder)
    assert [study.folder.name for study in read_studies(studies.folder, ["b"])] == ["b"]
    with pytest.raises(InputError, match="2 kinds"):
        read_studies(studies.folder, ["a", "b"])


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_studies_of_another_split_are_refused(studies: Any, part: str) -> None:
    studies.add("a")
    other = studies.add("b")
    study = json.loads((other.root / "study.json").read_text())
    study["split"][part] = "other"
    (other.root / "study.json").write_text(json.dumps(study))
    with pytest.raises(InputError, match="must share data, split and classes"):
        read_studies(studies.folder)


def test_unknown_study_is_refused_with_those_that_exist(studies: Any) -> None:
    studies.add("a")
    with pytest.raises(InputError, match="`--study` must be one of a, but got --study b"):
        read_studies(studies.folder, ["b"])


def test_missing_or_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`studies` must be a folder, but .*nowhere is none"):
        read_studies(StudiesFolder(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="`studies` must hold at least one study"):
        read_studies(StudiesFolder(tmp_path))


def test_damaged_study_is_named(studies: Any) -> None:
    study = studies.add("a")
    (study.root / "study.json").write_text('{"format": 1, "arch": {"name": "x"}}')
    with pytest.raises(InputError, match=r"a/study.json must describe a study, but it lacks 'data'"):
        read_studies(studies.folder)


def test_damaged_study_that_was_not_asked_for_is_not_read(studies: Any) -> None:
    studies.add("a")
    (studies.add("b").root / "study.json").write_text("{")
    assert [study.folder.name for study in read_studies(studies.folder, ["a"])] == ["a"]
    with pytest.raises(InputError, match=r"b/study.json must be JSON, but it is damaged"):
        read_studies(studies.folder)


def test_study_is_checked_for_all_that_the_report_tells(studies: Any) -> None:
    studies.add("a", data={"groups": "many"})
    with pytest.raises(InputError, match=r"a study, but data.groups is 'many' and not of type int\. Restore it"):
        read_studies(studies.folder)
