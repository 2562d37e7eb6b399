"""Files of tensors from anywhere."""

import pickle
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from core.errors import InputError
from core.weight_files import read_weight_file

TENSORS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def same(tensors: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_a_safetensors_file_is_known_by_its_content_and_gives_its_metadata(tmp_path):
    save_file(TENSORS, tmp_path / "weights.pth", metadata={"arch": "resnet18"})
    tensors, facts = read_weight_file(tmp_path / "weights.pth")
    assert same(tensors)
    assert facts == {"arch": "resnet18"}


@pytest.mark.parametrize(
    "wrapper", ["", "module.", "_orig_mod.", "backbone.", "module._orig_mod.backbone.", "_orig_mod.module."]
)
@pytest.mark.parametrize("keys", [(), ("state_dict",), ("model",), ("state_dict", "model")])
def test_a_torch_file_may_wrap_names_and_nest_its_state_dict(tmp_path, wrapper, keys):
    content: dict = {wrapper + name: tensor for name, tensor in TENSORS.items()}
    for key in reversed(keys):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "weights.safetensors")
    assert same(read_weight_file(tmp_path / "weights.safetensors")[0])


def test_tensors_that_share_memory_are_set_apart_so_that_safetensors_can_hold_them(tmp_path):
    whole = torch.arange(6.0)
    torch.save({"a": whole[:3], "b": whole, "c": nn.Parameter(whole)}, tmp_path / "w.pt")
    tensors, _ = read_weight_file(tmp_path / "w.pt")
    save_file(tensors, tmp_path / "w.safetensors")
    assert torch.equal(read_weight_file(tmp_path / "w.safetensors")[0]["a"], whole[:3])


def test_a_prefix_that_only_some_names_have_is_part_of_them(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pt")
    assert read_weight_file(tmp_path / "w.pt")[0].keys() == {"module.a", "b"}


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_file_with_code_in_it_is_refused_and_the_code_does_not_run(tmp_path, save):
    trap = tmp_path / "ran"
    save({"state_dict": TENSORS, "extra": Touch(trap)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"must be a safetensors file or a PyTorch file of tensors alone, but .*w\.pt"):
        read_weight_file(tmp_path / "w.pt")
    assert not trap.exists()
    with (tmp_path / "probe").open("wb") as file:
        pickle.dump(Touch(trap), file)
    pickle.loads((tmp_path / "probe").read_bytes())
    assert trap.exists(), "the trap itself doesn't work"


def test_a_pickle_is_refused_in_one_sentence_without_a_warning_before_it(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": Touch(tmp_path / "ran")}, protocol=4))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(InputError, match=r"is neither \(it is of another kind, or would run code when read"):
            read_weight_file(tmp_path / "w.pkl")
    assert told == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello world", "its bytes are of another kind"),
        (b"", "its bytes are of another kind"),
        (b"abc", "its bytes are of another kind"),
        (b"PK\x03\x04aaaa", "it is cut short or damaged"),
    ],
)
def test_the_reason_of_a_refusal_is_in_words(tmp_path, content, reason):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(InputError, match=rf"w\.pt is neither \({reason}\)\. Save"):
        read_weight_file(tmp_path / "w.pt")


@given(content=st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"\x08" + bytes(7) + b"{" + tail))
@settings(deadline=None, max_examples=60)
def test_bytes_of_another_kind_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "w"
    path.write_bytes(content)
    with pytest.raises(InputError, match="`weights` must"):
        read_weight_file(path)


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_a_file_cut_short_is_refused(tmp_path, kind):
    path = tmp_path / "w"
    torch.save(TENSORS, path) if kind == "torch" else save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="`weights` must be a safetensors file or a PyTorch file"):
        read_weight_file(path)


@pytest.mark.parametrize("content", [torch.ones(2), [torch.ones(2)], {}, {"a": 1}, {"state_dict": {}}])
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match="`weights` must hold named tensors and nothing else, but"):
        read_weight_file(tmp_path / "w.pt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "nowhere.pt", tmp_path):
        with pytest.raises(InputError, match="`weights` must be auto, none or a file, but got weights="):
            read_weight_file(path)
