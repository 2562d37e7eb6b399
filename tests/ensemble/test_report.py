import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from core.archs import Arch
from ensemble.decision import Rule
from ensemble.evaluation import evaluate
from ensemble.findings import Finding
from ensemble.markdown import render_markdown
from ensemble.mistakes import surest_mistakes
from ensemble.page import render_page
from ensemble.parts import Part
from ensemble.report import metrics, rehearse
from ensemble.spec import EnsembleSpec, MemberSpec
from ensemble.tables import Report, worst_confusions

EVIL = '<script>alert("x")</script>|&`*'
_VOID = {"meta", "img", "source", "br"}


@pytest.fixture(autouse=True)
def _no_pictures_where_both_are_rendered(request: pytest.FixtureRequest) -> None:
    """Of what the page and the Markdown have in common, no picture is part."""
    if "render" in request.fixturenames:
        request.getfixturevalue("blank_pictures")


class Balance(HTMLParser):
    """Collects tags, and fails on one that closes what isn't open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def make_report(*, demo: bool = False, test: bool = True, opening: int = 1, name: str = "s") -> Report:
    classes = (f"df{name}", "mel", "nv")
    arch = Arch(name=name, timm_name="a", image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), weight_tag=None)
    member = MemberSpec(
        study=name,
        trial=1,
        arch=arch,
        files=("f",),
        weight=1.0,
        prior=(1 / 3, 1 / 3, 1 / 3),
        recall=0.5,
        recall_interval=(0.4, 0.6),
        best_epoch=0,
        config={"lr": 0.01, "note": name},
    )
    data = {"root": name, "layout": "l", "fingerprint": "f", "images": 8, "groups": 8, "grouped": True}
    spec = EnsembleSpec(
        classes=classes,
        members=(member,),
        left_out=((name, name),),
        demo=demo,
        data=data,
        split={"seed": 0, "test": "t"},
        versions={"torch": name},
        command=f"build {name}",
        created="now",
    )
    # True classes 1, 1, 1, 2; 3 of 4 right, so recalls of 2/3 and 1.
    part = Part(images=("1", "2", "3", "4"), groups=("x", "x", "y", "z"), labels=np.array([1, 1, 1, 2]))
    probs = np.array([[[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.1, 0.1, 0.8]]])
    judged = evaluate(probs, spec, part)
    summary = {
        "trials": {"complete": 2, "pruned": 1, "failed": 0},
        "best": [{"number": 1, "recall": 0.5, "recall_interval": [0.4, 0.6], "params": {name: 0.01}}],
        "importance": {name: 0.4},
        "slices": {name: [[0.01, 0.5], [0.1, 0.4]]},
        "elapsed_s": 60.0,
    }
    info = {"versions": {"torch": name}, "command": f"search {name}"}
    return Report(
        spec=spec,
        validation=judged,
        test=judged if test else None,
        opening=opening if test else 0,
        histories=[[]],
        findings=[Finding(study=name, arch=name, info=info, summary=summary)],
        mistakes=surest_mistakes(judged, classes),
        photos=[b"a photograph"] if test else [],
    )


def parse(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_page_needs_nothing_from_outside() -> None:
    parser = parse(render_page(make_report()))
    addresses = [a[key] for _, a in parser.seen for key in ("src", "href", "srcset") if key in a]
    assert addresses
    assert all(address and re.match(r"data:image/(svg\+xml|jpeg);base64,", address) for address in addresses)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in parser.seen}


def test_what_no_split_changes_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = rehearse(make_report(test=False))
    fresh = render_page(make_report())
    for plot in ("plot_curves", "plot_slices"):
        monkeypatch.setattr(f"ensemble.page.{plot}", lambda *_, **__: pytest.fail("drawn again"))
    assert render_page(make_report(), drawn) == fresh


def test_page_escapes_whatever_comes_from_outside() -> None:
    page = render_page(make_report(name=EVIL))
    assert "<script" not in page
    parser = parse(page)
    assert {"script"}.isdisjoint(tag for tag, _ in parser.seen)
    assert parser.text.count(EVIL) >= 10


def test_markdown_escapes_whatever_comes_from_outside() -> None:
    text = render_markdown(make_report(name=EVIL))
    before_commands = text[: text.index("## Commands")]
    assert not re.search(r"(?<!\\)<", before_commands)
    rows = [line for line in before_commands.splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    header = next(index for index, row in enumerate(rows) if "Macro recall" in row)
    assert cells[header : header + 4] == [9] * 4


@pytest.mark.parametrize("render", [render_page, render_markdown])
def test_both_reports_show_the_same_figures(render: Any) -> None:
    text = render(make_report())
    # Macro recall (2/3 + 1) / 2, accuracy 3/4, recall of mel 2/3.
    for figure in ("83.3", "75.0%", "66.7%", "4 images of 3 lesions"):
        assert figure in text
    assert metrics(make_report())["test"]["ensemble"]["macro_recall"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("render", [render_page, render_markdown])
def test_micro_recall_is_named_once(render: Any) -> None:
    assert render(make_report()).count("micro recall") == 1


@pytest.mark.parametrize("render", [render_page, render_markdown])
def test_only_demo_reports_are_stamped(render: Any) -> None:
    assert "DEMO" in render(make_report(demo=True))
    assert "DEMO" not in render(make_report())


@pytest.mark.parametrize("render", [render_page, render_markdown])
def test_reports_without_test_say_that_their_figures_are_optimistic(render: Any) -> None:
    text = render(make_report(test=False))
    assert "alidation only" in text
    assert "figures here are optimistic" in text
    assert "Validation recall (optimistic)" not in text.replace("\\", "")
    assert metrics(make_report(test=False))["test"] is None


@pytest.mark.parametrize("render", [render_page, render_markdown])
def test_repeated_openings_are_told(render: Any) -> None:
    assert "opened once, by this report, after the ensemble was final" in render(make_report())
    assert "has been opened 3 times" in render(make_report(opening=3))


def test_validation_stands_beside_test_and_is_called_optimistic() -> None:
    page = render_page(make_report())
    assert page.count("Validation recall (optimistic)") == 1
    assert 'class="val"' in page


@pytest.mark.parametrize("render", [render_page, render_markdown])
def test_classes_of_few_lesions_are_named_because_they_make_the_interval_too_narrow(render: Any) -> None:
    told = render(make_report())
    assert "The interval is too narrow" in told
    assert re.search(r"fewer than 10 here: dfs 0, mel 2, nv 1", told)


def test_worst_confusions_are_by_share_of_the_true_class() -> None:
    assert worst_confusions(make_report()) == ["mel taken for nv: 1 of 3 (33%)"]


def test_study_that_has_no_summary_yet_is_reported_all_the_same() -> None:
    report = make_report()
    report.findings[0].summary.clear()
    assert "has not written what it found yet" in render_page(report)
    assert "has not written what it found yet" in render_markdown(report)


@pytest.mark.parametrize("render", [render_page, render_markdown])
def test_each_step_from_the_best_single_trial_is_told_with_its_gain(render: Any) -> None:
    text = render(make_report()).replace("\\", "")
    assert "What each step gains" in text
    for step in ("best single, s #1", "vote", "+ prior correction (tau 1)", "+ temperature (1.00)"):
        assert step in text
    assert "+0.0 to +0.0" in text
    assert "the ensemble gains +0.0 points of macro recall" in text
    told = metrics(make_report())["test"]
    assert [rung["gain"] for rung in told["ladder"]] == [None, 0, 0, 0]
    assert (told["gain_over_best_single"], told["gain_over_best_single_interval"]) == (0, [0, 0])


@pytest.mark.parametrize("render", [render_page, render_markdown])
def test_the_rule_is_told_in_words_and_in_numbers(render: Any) -> None:
    report = make_report()
    rule = Rule(tau=0.7, vote="geometric", temperature=1.25)
    report = dataclasses.replace(report, spec=dataclasses.replace(report.spec, rule=rule))
    text = render(report).replace("\\", "")
    assert "corrected by p / prior^0.7, then their logarithms are averaged. A temperature of 1.25 scales" in text
    assert metrics(report)["decision"] == rule.to_dict()


@pytest.mark.parametrize("render", [render_page, render_markdown])
def test_what_was_fitted_is_told_with_its_figures_out_of_fold(render: Any) -> None:
    report = make_report()
    assert "Fitted to validation" not in render(report)
    figures = {"macro_recall": 0.123, "macro_recall_interval": [0.1, 0.2], "accuracy": 0.5}
    figures |= {"expected_calibration_error": 0.25, "negative_log_likelihood": 0.75}
    way = {"vote": "greedy", "top_k": None, "macro_recall": 0.456, "macro_recall_interval": [0.4, 0.5], "chosen": True}
    fitted = {"images": 1000, "folds": 5, "decisions_changed_by_temperature": 0, "ways": [way]}
    fitted["out_of_fold"] = [{"step": EVIL, "value": "0.8", **figures}]
    told = dataclasses.replace(report, spec=dataclasses.replace(report.spec, fitted=fitted))
    text = render(told)
    assert "<script" not in text.replace("\\<", "")
    for part in ("Fitted to validation", "12.3%", "10.0% to 20.0%", "0.250", "0.750", "45.6%", "greedy"):
        assert part in text
    assert metrics(told)["fitted"] == fitted
    del fitted["ways"]
    assert "Ways of voting" not in render(told)


@pytest.mark.parametrize("render", [render_page, render_markdown])
def test_each_class_is_told_with_precision_specificity_and_how_well_it_ranks(render: Any) -> None:
    text = render(make_report()).replace("\\", "")
    for header in ("Precision", "Specificity", "AUROC"):
        assert header in text
    # Of the two images taken for mel both are; of the two others taken for nv one is.
    assert "50.0%" in text
    told = metrics(make_report())["test"]["ensemble"]["classes"]
    assert [row["precision"] for row in told] == [None, 1, 0.5]
    assert [row["specificity"] for row in told] == [1, 1, pytest.approx(2 / 3)]
    assert [row["auroc"] for row in told] == [None, pytest.approx(5 / 6), pytest.approx(5 / 6)]


def test_melanoma_is_looked_at_closely_without_being_asked_for() -> None:
    parser = parse(render_page(make_report()))
    assert any((a.get("alt") or "") == "ROC and precision-recall curve of mel" for _, a in parser.seen)
    assert "Telling mel from the rest" in parser.text
    (told,) = metrics(make_report())["test"]["watched"]
    assert (told["name"], told["prevalence"], told["flagged"]) == ("mel", 0.75, None)
    assert told["chosen"] == {"sensitivity": pytest.approx(2 / 3), "specificity": 1, "precision": 1}


def test_photographs_of_the_surest_mistakes_are_in_the_page_and_named() -> None:
    report = make_report()
    parser = parse(render_page(report))
    assert [a.get("alt") for tag, a in parser.seen if tag == "img" and "jpeg" in (a.get("src") or "")] == ["3"]
    assert "mel, taken for nv (80%)" in parser.text
    assert metrics(report)["surest_mistakes"] == [
        {"image": "3", "lesion": "y", "truth": "mel", "chosen": "nv", "probability": pytest.approx(0.8)}
    ]


def test_without_opened_images_mistakes_are_listed_only() -> None:
    parser = parse(render_page(make_report(test=False)))
    assert "Without pictures, as no image was opened." in parser.text
    assert not any("jpeg" in (a.get("src") or "") for _, a in parser.seen)


@pytest.mark.parametrize("render", [render_page, render_markdown])
def test_intended_use_and_limits_are_told(render: Any) -> None:
    text = render(make_report()).replace("\\", "")
    assert "Not made for" in text
    assert "mel: 66.7% of its images are found" in text
    assert "nv: judged on 1 lesion, so that" in text
