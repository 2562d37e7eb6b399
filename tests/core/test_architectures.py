"""Every family of architectures keeps the contract: blocks, frozen statistics, cuts, saving; `benchmarks.contract`."""

from collections.abc import Iterator

import pytest
import torch

from benchmarks.contract import NAMED, SMALL, check_architecture
from core.archs import resolve_arch
from core.backbones import build_classifier, build_skeleton
from core.classifier import Classifier
from core.cut import Cut
from core.errors import InputError

SLOWEST = ("densenet121", "swin_tiny_patch4_window7_224")  # six seconds each


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """On tensors this small and a busy machine, two threads spend nearly all their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def has_norms_to_fold(name: str) -> bool:
    return not name.startswith(("convnext", "vit", "swin"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOWEST else name for name in SMALL]
)
def test_a_small_one_of_each_family_keeps_the_contract(name: str) -> None:
    kept = check_architecture(name, every_depth=False)
    assert (kept.folded > 0) == has_norms_to_fold(name)
    assert kept.cut == kept.depths[:-1], "what is frozen is computed once per view"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_those_that_people_name_keep_it_at_every_depth(name: str) -> None:
    kept = check_architecture(name, every_depth=True, exports=True)
    assert kept.cut == tuple(range(kept.blocks))
    assert kept.exported is not None
    assert (kept.folded > 0) == has_norms_to_fold(name)


def test_what_cannot_be_cut_is_computed_whole() -> None:
    # Its position embedding depends on the size of its input.
    kept = check_architecture("test_vit", every_depth=False)
    assert set(kept.cut) < set(kept.depths[:-1])


def test_the_contract_catches_running_statistics_that_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classifier, "train", torch.nn.Module.train)
    with pytest.raises(AssertionError, match=r"test_resnet at depth 0: .* tensors that learn and shouldn't"):
        check_architecture("test_resnet", every_depth=False)


def test_the_contract_catches_a_cut_that_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(torch.nn.Module):
        def forward(self, activations: torch.Tensor) -> torch.Tensor:
            return activations + 1

    right = Classifier.cut

    def wrong(self: Classifier, image_size: int) -> Cut | None:
        cut = right(self, image_size)
        return cut and Cut(cut.frozen, torch.nn.Sequential(cut.learning, Elsewhere()))

    monkeypatch.setattr(Classifier, "cut", wrong)
    with pytest.raises(AssertionError, match="test_resnet at depth 0: activations of the frozen part lead elsewhere"):
        check_architecture("test_resnet", every_depth=False)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("caformer_s18", "one linear head, but MetaFormer has MlpHead"),
        ("deit_tiny_distilled_patch16_224", "one linear head, but VisionTransformerDistilled has tuple"),
        ("dla34", "one linear head, but DLA has Conv2d"),
        ("rdnet_tiny", "that timm splits into blocks, but RDNet declares none"),
        ("gemma4_vit_167m_enc", "an image classifier, but timm can't build"),
    ],
)
def test_what_a_family_cannot_do_is_refused_in_one_sentence(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"^`arch` must be .*{reason}[^\n]*$"):
        build_skeleton(resolve_arch(name))


def test_a_network_that_makes_more_of_an_image_than_its_head_does_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = resolve_arch("test_resnet")
    network = type(build_classifier(arch, num_classes=3, weights=None, seed=0).backbone)
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda self, images: forward(self, images) + 1)
    with pytest.raises(InputError, match="whose head sees pooled features and nothing else, but test_resnet"):
        build_classifier(arch, num_classes=3, weights=None, seed=0)
