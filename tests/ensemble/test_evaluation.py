import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, recall_score

from core.archs import Arch
from core.metrics import LesionBootstrap, confusion_matrix, macro_recall, wilson_interval
from ensemble.decision import Rule
from ensemble.evaluation import Evaluation, evaluate
from ensemble.ladder import climb
from ensemble.parts import Part
from ensemble.spec import EnsembleSpec, MemberSpec

CLASSES = ("df", "mel", "nv")
ARCH = Arch(name="a", timm_name="a", image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), weight_tag=None)


def member(trial: int, weight: float, prior: tuple[float, ...]) -> MemberSpec:
    return MemberSpec(
        study="s",
        trial=trial,
        arch=ARCH,
        files=("f",),
        weight=weight,
        prior=prior,
        recall=0.5,
        recall_interval=(0.4, 0.6),
        best_epoch=0,
        config={},
    )


def ensemble_of(*members: MemberSpec) -> EnsembleSpec:
    return EnsembleSpec(
        classes=CLASSES,
        members=members,
        left_out=(),
        demo=False,
        data={},
        split={},
        versions={},
        command="",
        created="",
    )


@pytest.fixture
def evaluation() -> Evaluation:
    """Two members, five images of four lesions, none of class df."""
    part = Part(images=("1", "2", "3", "4", "5"), groups=("x", "x", "y", "z", "w"), labels=np.array([1, 1, 1, 2, 2]))
    prior = (0.1, 0.2, 0.7)
    rare = [0.1, 0.3, 0.6]  # corrected: 1 : 1.5 : 0.857, so mel; plain: nv
    sure = [0.0, 0.1, 0.9]  # corrected: 0 : 0.5 : 1.286, so nv
    first, second = [rare, rare, sure, sure, sure], [rare, sure, rare, sure, rare]
    return evaluate(np.array([first, second]), ensemble_of(member(1, 0.5, prior), member(2, 0.5, prior)), part)


def test_members_are_judged_after_prior_correction_with_argmax_beside(evaluation: Evaluation) -> None:
    first, second = evaluation.members
    assert first.confusion_CC.tolist() == [[0, 0, 0], [0, 2, 1], [0, 0, 2]]
    assert first.recall == pytest.approx((2 / 3 + 1) / 2)
    assert second.recall == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (first.recall_argmax, first.accuracy, first.accuracy_argmax) == pytest.approx((0.5, 0.8, 0.4))
    assert (first.name, second.name, evaluation.blend.name) == ("s #1", "s #2", "Ensemble")


def test_blend_is_the_vote_of_corrected_members(evaluation: Evaluation) -> None:
    rare, sure = np.array([1, 1.5, 6 / 7]), np.array([0, 0.5, 9 / 7])
    expected = (rare / rare.sum() + sure / sure.sum()) / 2
    np.testing.assert_allclose(evaluation.probs_NC[1], expected)
    np.testing.assert_allclose(evaluation.probs_NC.sum(axis=1), 1)


def test_recall_agrees_with_scikit_learn_to_the_last_digit(evaluation: Evaluation) -> None:
    labels, predictions = evaluation.part.labels, evaluation.probs_NC.argmax(1)
    assert evaluation.blend.recall == recall_score(labels, predictions, average="macro")
    assert evaluation.blend.recall == balanced_accuracy_score(labels, predictions)


def test_class_intervals_count_lesions_and_not_images(evaluation: Evaluation) -> None:
    df, mel, nv = evaluation.members[0].per_class
    assert (mel.images, mel.lesions) == (3, 2)
    assert mel.interval == wilson_interval(2 / 3, 2)
    assert (nv.images, nv.lesions, nv.recall) == (2, 2, 1.0)
    assert (df.images, df.recall, df.interval) == (0, None, None)
    assert (evaluation.images, evaluation.lesions) == (5, 4)


def test_figures_survive_json_even_for_a_class_without_images(evaluation: Evaluation) -> None:
    figures = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert figures["ensemble"]["classes"][0] == {
        "name": "df",
        "images": 0,
        "lesions": 0,
        "recall": None,
        "interval": None,
        "precision": None,
        "precision_interval": None,
        "specificity": 1.0,
        "specificity_interval": figures["ensemble"]["classes"][0]["specificity_interval"],
        "auroc": None,
    }
    low, high = figures["ensemble"]["macro_recall_interval"]
    assert low <= figures["ensemble"]["macro_recall"] <= high


def test_weights_decide_a_split_vote() -> None:
    part = Part(images=("1",), groups=("x",), labels=np.array([1]))
    even = (1 / 3, 1 / 3, 1 / 3)
    probs = np.array([[[0.0, 0.6, 0.4]], [[0.0, 0.3, 0.7]]])
    predicted = [
        evaluate(probs, ensemble_of(member(1, weight, even), member(2, 1 - weight, even)), part).probs_NC.argmax()
        for weight in (0.9, 0.5)
    ]
    assert predicted == [1, 2]


def test_ladder_climbs_from_the_best_of_each_architecture_to_the_ensemble() -> None:
    part = Part(images=("1", "2", "3", "4"), groups=("w", "x", "y", "z"), labels=np.array([0, 1, 1, 2]))
    other = dataclasses.replace(ARCH, name="b", timm_name="b")
    flat = (0.2, 0.3, 0.5)
    members = [
        dataclasses.replace(member(1, 0.4, flat), recall=0.7),
        dataclasses.replace(member(2, 0.3, flat), recall=0.6),
        dataclasses.replace(member(3, 0.3, flat), recall=0.5, arch=other),
    ]
    spec = dataclasses.replace(ensemble_of(*members), rule=Rule(tau=0.5, temperature=2.0))
    probs_MNC = np.random.default_rng(0).dirichlet(np.ones(3), (3, 4))
    evaluation = evaluate(probs_MNC, spec, part)
    assert [rung.name for rung in evaluation.ladder] == [
        "best single, s #3",
        "best single, s #1",
        "vote",
        "+ prior correction (tau 0.5)",
        "+ temperature (2.00)",
    ]
    assert evaluation.ladder[1].recall == evaluation.members[0].recall_argmax
    assert evaluation.ladder[2].recall == evaluation.blend.recall_argmax
    assert evaluation.ladder[3].recall == evaluation.ladder[4].recall == evaluation.blend.recall
    assert evaluation.ladder[4].nll == evaluation.blend.nll
    assert evaluation.over_single.gain == pytest.approx(evaluation.blend.recall - evaluation.members[0].recall)


@given(st.integers(0, 2**32 - 1))
def test_recall_of_any_ensemble_agrees_with_scikit_learn_to_the_last_digit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels_N = np.concatenate([np.arange(7), rng.integers(0, 7, 40)])
    probs_NC = rng.dirichlet(np.ones(7), 47)
    names = tuple(str(n) for n in range(47))
    predictions_N = probs_NC.argmax(axis=1)
    ours = macro_recall(confusion_matrix(labels_N, predictions_N, 7))
    assert ours == recall_score(labels_N, predictions_N, average="macro")
    assert ours == balanced_accuracy_score(labels_N, predictions_N)
    bootstrap = LesionBootstrap(labels_N, names, 7, resamples=10)
    (rung,) = climb([("vote", probs_NC)], Part(images=names, groups=names, labels=labels_N), bootstrap)
    assert rung.recall == ours
