import optuna
import pytest
from optuna.distributions import FloatDistribution

from core.config import AUGMENT_STRENGTHS, TrainConfig
from search.space import Space, any_backbone, build_space, efficientnet, mobilenet

NAMES = ("mobilenetv2_100", "efficientnet_b3", "tf_efficientnet_lite0", "resnet18")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pretrained", [True, False])
def test_every_sampled_config_is_valid(name: str, pretrained: bool) -> None:
    space = build_space(name, 7, pretrained=pretrained)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(200):
        params = study.ask(fixed_distributions=space.distributions).params
        config = TrainConfig.from_dict({"arch": name, "image_size": 64} | params)
        assert 0 <= config.unfreeze_depth <= 7


@pytest.mark.parametrize("name", NAMES)
def test_the_first_trial_is_a_valid_config_even_of_a_shallow_model(name: str) -> None:
    space = build_space(name, 2, pretrained=True)
    assert TrainConfig.from_dict({"arch": name, "image_size": 64} | space.known_good).unfreeze_depth <= 2


def test_each_family_has_its_own_ranges() -> None:
    fingerprints = {space(7).fingerprint() for space in (mobilenet, efficientnet, any_backbone)}
    assert len(fingerprints) == 3


def test_without_pretrained_weights_everything_learns() -> None:
    space = build_space("mobilenetv2_100", 8, pretrained=False)
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
        assert build_space(name, 7, pretrained=True).distributions["augment_strength"].choices == AUGMENT_STRENGTHS


def test_ranges_are_described_in_words() -> None:
    words = mobilenet(8).describe()
    assert words["lr"] == "0.0001 to 0.01, logarithmic"
    assert words["batch_size"] == "16 | 32 | 64"
