import optuna
import pytest
from optuna.distributions import FloatDistribution

from core.config import AUGMENT_STRENGTHS, TrainConfig
from core.errors import InputError
from search.space import (
    LARGE,
    SMALL,
    TUNABLE,
    Space,
    any_backbone,
    build_space,
    efficientnet,
    mobilenet,
    read_tuned,
)

SIZE = 11_000_000  # parameters
NAMES = ("mobilenetv2_100", "efficientnet_b3", "tf_efficientnet_lite0", "resnet18")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pretrained", [True, False])
def test_every_sampled_config_is_valid(name: str, pretrained: bool) -> None:
    space = build_space(name, 7, parameters=SIZE, pretrained=pretrained)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(200):
        params = study.ask(fixed_distributions=space.distributions).params
        config = TrainConfig.from_dict({"arch": name, "image_size": 64} | params)
        assert 0 <= config.unfreeze_depth <= 7


@pytest.mark.parametrize("name", NAMES)
def test_the_first_trial_is_a_valid_config_even_of_a_shallow_model(name: str) -> None:
    space = build_space(name, 2, parameters=SIZE, pretrained=True)
    assert TrainConfig.from_dict({"arch": name, "image_size": 64} | space.known_good).unfreeze_depth <= 2


def test_each_family_has_its_own_ranges() -> None:
    fingerprints = {space(7).fingerprint() for space in (mobilenet, efficientnet)}
    fingerprints |= {any_backbone(7, size).fingerprint() for size in (SMALL - 1, SMALL, LARGE - 1, LARGE)}
    assert len(fingerprints) == 5, "an unknown family has one for each of three sizes"


def test_the_larger_an_unknown_backbone_the_lower_its_rates() -> None:
    spaces = [any_backbone(5, size) for size in (1_000_000, 25_000_000, 86_000_000)]
    rates = [space.known_good["lr"] for space in spaces]
    assert rates == sorted(rates, reverse=True)
    assert [space.distributions["drop_rate"].high for space in spaces] == [0.5, 0.6, 0.7]


@pytest.mark.parametrize("pretrained", [True, False])
def test_what_is_tuned_besides_is_in_the_space_and_in_valid_configs(pretrained: bool) -> None:
    plain = build_space("resnet18", 5, parameters=SIZE, pretrained=pretrained)
    for field in TUNABLE:
        space = build_space("resnet18", 5, parameters=SIZE, pretrained=pretrained, tuned={field: 0})
        assert set(space.distributions) == {*plain.distributions, field}
        assert space.fingerprint() != plain.fingerprint()
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for params in (space.known_good, *(study.ask(space.distributions).params for _ in range(50))):
            TrainConfig.from_dict({"arch": "resnet18", "image_size": 64} | params)


def test_as_many_blocks_learn_as_what_is_tuned_needs() -> None:
    tuned = {"layer_decay": 1, "drop_path": 2, "l1": 0}
    space = build_space("mobilenetv2_100", 8, parameters=SIZE, pretrained=True, tuned=tuned)
    assert (space.least_depth, space.known_good["unfreeze_depth"]) == (2, 5)
    space = build_space("mobilenetv2_100", 8, parameters=SIZE, pretrained=True, tuned={"cutmix": 8})
    assert (space.least_depth, space.known_good["unfreeze_depth"]) == (8, 8)


def test_fields_to_tune_are_read_and_unknown_ones_refused_with_the_known() -> None:
    assert read_tuned("l1, mixup,l1") == ("l1", "mixup")
    for wrong in ("l2", "lr", "l1,dropout", ",", ""):
        with pytest.raises(InputError, match=r"`--tune` must be one or more of l1, mixup, .* but got --tune="):
            read_tuned(wrong)
    with pytest.raises(InputError, match="one of mixup and cutmix"):
        read_tuned("cutmix,mixup")


def test_without_pretrained_weights_everything_learns() -> None:
    space = build_space("mobilenetv2_100", 8, parameters=SIZE, pretrained=False)
    study = optuna.create_study()
    depths = {study.ask(fixed_distributions=space.distributions).params["unfreeze_depth"] for _ in range(20)}
    assert depths == {8} == {space.known_good["unfreeze_depth"]}


def test_the_fingerprint_changes_with_any_range_and_only_then() -> None:
    space = mobilenet(8)
    wider = Space(
        distributions=space.distributions | {"lr": FloatDistribution(1e-5, 1e-2, log=True)}, known_good=space.known_good
    )
    assert mobilenet(8).fingerprint() == space.fingerprint()
    assert len({space.fingerprint(), wider.fingerprint(), mobilenet(7).fingerprint()}) == 3


def test_a_first_trial_out_of_its_range_is_our_mistake() -> None:
    space = mobilenet(8)
    with pytest.raises(AssertionError, match=r"drop_rate=0\.9 is out of its range"):
        Space(distributions=space.distributions, known_good=space.known_good | {"drop_rate": 0.9})


def test_views_come_in_at_most_three_strengths() -> None:
    # Trials share the views of a strength, which a continuous range would prevent.
    assert len(AUGMENT_STRENGTHS) <= 3
    for name in NAMES:
        assert (
            build_space(name, 7, parameters=SIZE, pretrained=True).distributions["augment_strength"].choices
            == AUGMENT_STRENGTHS
        )


def test_ranges_are_described_in_words() -> None:
    words = mobilenet(8).describe()
    assert words["lr"] == "0.0001 to 0.01, logarithmic"
    assert words["batch_size"] == "16 | 32 | 64"
