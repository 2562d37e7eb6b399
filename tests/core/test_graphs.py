"""Steps are recorded once for each kind of batch, and a recorded step changes no number."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.config import TrainConfig
from core.graphs import Function, Recorded, Tensors, record, recorder_for
from core.trainer import Trainer, TrainResult
from tests.fixtures.colours import colour_config, colour_trainer, go_on, resumed_after_a_cut

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Tape:
    """Records as a card does: for tensors that lie elsewhere than those it is shown, and without computing anything."""

    def __init__(self) -> None:
        self.recorded: list[int] = []

    def __call__(self, function: Function, inputs: Tensors) -> Function:
        self.recorded.append(len(inputs[0]))
        held = tuple(torch.empty_like(tensor) for tensor in inputs)

        def launch(*tensors: Tensor) -> Tensors:
            torch._foreach_copy_(held, tensors)
            return function(*held)

        return launch


def doubling(calls: list[int]) -> Function:
    def double(*tensors: Tensor) -> Tensors:
        calls.append(len(tensors[0]))
        return tuple(2 * tensor for tensor in tensors)

    return double


def test_the_second_call_of_a_kind_is_recorded_and_later_ones_find_it() -> None:
    tape, calls = Tape(), list[int]()
    function = Recorded(doubling(calls), tape)
    for count in (4, 4, 3, 4, 3, 4, 3):
        (result,) = function(torch.full((count,), float(count)))
        assert result.tolist() == [2.0 * count] * count
    assert tape.recorded == [4, 3]
    assert function.recordings == 2


@pytest.mark.parametrize(
    "other",
    [torch.ones(2, 3, dtype=torch.int64), torch.ones(3, 2).T, torch.ones(2, 4)],
    ids=["type", "strides", "shape"],
)
def test_tensors_of_another_kind_are_recorded_apart(other: Tensor) -> None:
    function = Recorded(doubling([]), Tape())
    for tensor in (torch.ones(2, 3), other, torch.ones(2, 3), other):
        function(tensor)
    assert function.recordings == 2


def test_without_a_recorder_nothing_is_recorded() -> None:
    function = Recorded(doubling([]), None)
    for _ in range(3):
        function(torch.ones(2))
    assert function.recordings == 0


def test_what_cannot_be_recorded_is_computed_as_ever_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(function: Function, inputs: Tensors) -> Function:
        raise RuntimeError("not permitted when a stream is capturing\nCompile with more to see more")

    function = Recorded(doubling([]), refuse)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert function(torch.ones(2))[0].tolist() == [2.0, 2.0]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("steps are launched kernel by kernel, which is slower: not permitted when")


def test_memory_that_runs_out_while_recording_is_not_taken_for_a_step_that_cannot_be() -> None:
    def fill(function: Function, inputs: Tensors) -> Function:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    function = Recorded(doubling([]), fill)
    function(torch.ones(2))
    with pytest.raises(torch.OutOfMemoryError):
        function(torch.ones(2))


def test_a_cpu_records_nothing() -> None:
    assert recorder_for(CPU) is None


def test_a_run_without_room_for_a_recording_is_begun_again_without_one() -> None:
    def full(function: Function, inputs: Tensors) -> Function:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    trainer, plain = colour_trainer(), colour_trainer()
    trainer._recorder = full
    wanted = colour_config(plain, batch_size=24)  # with batch normalisation, so that batches can't be parted
    assert_same(trainer.train(wanted, go_on), plain.train(wanted, go_on))


VALUES: list[dict[str, Any]] = [
    {},
    {"unfreeze_depth": 0},
    {"unfreeze_depth": 2, "drop_rate": 0.4, "label_smoothing": 0.1},
    {"loss": "focal", "focal_gamma": 2.0, "optimizer": "sgd", "rebalance": 0.0},
    {"loss": "logit_adjusted", "rebalance": 1.0, "schedule": "step"},
    {"layer_decay": 0.7, "weight_decay": 0.1},
    {"mixup": 0.4},
    {"cutmix": 1.0},
    {"l1": 0.3},
    {"l1": 0.3, "layer_decay": 0.7, "optimizer": "sgd"},
    {"ema": 1.0},
]


def with_tape(trainer: Trainer, tape: Tape | None) -> Trainer:
    trainer._recorder = tape
    return trainer


@pytest.mark.parametrize("values", VALUES, ids=str)
def test_a_recorded_step_gives_the_numbers_of_one_that_is_not(values: dict[str, Any]) -> None:
    tape = Tape()
    recorded, plain = with_tape(colour_trainer(), tape), colour_trainer()
    wanted = colour_config(plain, batch_size=24, **values)  # 70 images leave 22 behind two batches
    assert_same(recorded.train(wanted, go_on), plain.train(wanted, go_on))
    assert tape.recorded == [24, 22], "one recording for whole batches, one for the last"


def test_each_run_has_recordings_of_its_own() -> None:
    tape = Tape()
    trainer, plain = with_tape(colour_trainer(), tape), colour_trainer()
    for lr in (1e-2, 1e-3):
        wanted = colour_config(plain, batch_size=32, lr=lr)
        assert_same(trainer.train(wanted, go_on), plain.train(wanted, go_on))
    assert tape.recorded == [32, 6, 32, 6]


def assert_same(ours: TrainResult, theirs: TrainResult) -> None:
    drop = ("elapsed_s", "images_per_s")
    rows = [[{k: v for k, v in row.items() if k not in drop} for row in each.history] for each in (ours, theirs)]
    assert rows[0] == rows[1]
    np.testing.assert_array_equal(ours.val_probs, theirs.val_probs)


def test_where_one_kind_cannot_be_recorded_none_is() -> None:
    def only_pairs(function: Function, inputs: Tensors) -> Function:
        if len(inputs[0]) != 2:
            raise RuntimeError("operation not permitted when stream is capturing")
        return lambda *tensors: (tensors[0] * 0,)  # tells that it is the recording

    step = Recorded(lambda tensor: (tensor + 1,), only_pairs)
    pair, triple = torch.ones(2), torch.ones(3)
    assert [step(pair)[0].sum().item() for _ in range(2)] == [4, 0]
    assert [step(triple)[0].sum().item() for _ in range(2)] == [6, 6]
    assert step(pair)[0].sum().item() == 4


@pytest.mark.gpu
@pytest.mark.parametrize("values", VALUES, ids=str)
def test_a_card_gives_the_same_numbers_with_a_graph(values: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    trainer, plain = colour_trainer(device=CUDA), with_tape(colour_trainer(device=CUDA), None)
    wanted = colour_config(plain, batch_size=24, epochs=3, **values)
    assert recordings(trainer, wanted) == 2
    ours, theirs = trainer.train(wanted, go_on), plain.train(wanted, go_on)
    assert not caplog.records, "nothing was launched kernel by kernel"
    assert_same(ours, theirs)


def recordings(trainer: Trainer, wanted: TrainConfig) -> int:
    run = trainer.prepare(wanted)
    for epoch in range(2):
        run.train_epoch(epoch, lambda images: None)
    assert isinstance(run.descend, Recorded)
    return run.descend.recordings


@pytest.mark.gpu
def test_a_graph_draws_other_branches_to_leave_out_at_each_step() -> None:
    trainer = colour_trainer("test_vit", device=CUDA)
    spread = {}
    for drop_path in (0.0, 0.5):
        wanted = colour_config(trainer, batch_size=32, lr=1e-9, epochs=4, views=1, drop_rate=0.0, drop_path=drop_path)
        losses = [row["train_loss"] for row in trainer.train(wanted, go_on).history]
        spread[drop_path] = max(losses) - min(losses)
    assert spread[0.0] < 0.1 * spread[0.5], "without it epochs differ in nothing but their order"


@pytest.mark.gpu
def test_a_recorded_run_goes_on_after_a_cut_with_the_same_numbers(tmp_path: Path) -> None:
    trainer = colour_trainer(device=CUDA)
    wanted = colour_config(trainer, batch_size=24)
    undisturbed = trainer.train(wanted, go_on)
    assert_same(resumed_after_a_cut(trainer, wanted, tmp_path / "running"), undisturbed)


@pytest.mark.gpu
def test_runs_one_after_the_other_keep_no_memory() -> None:
    trainer = colour_trainer(device=CUDA)
    wanted = colour_config(trainer, batch_size=24, epochs=1)
    taken = []
    for _ in range(6):
        trainer.train(wanted, go_on)
        taken.append(torch.cuda.memory_reserved())
    assert taken[-1] <= taken[1]


@pytest.mark.gpu
def test_what_cannot_be_recorded_leaves_the_card_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    looking = Recorded(lambda tensor: (tensor * tensor.sum().item(),), record)
    before, tensor = torch.cuda.current_stream(), torch.ones(3, device=CUDA)
    torch.manual_seed(0)
    expected = [torch.rand(2, device=CUDA) for _ in range(2)]
    for _ in range(2):  # a seed reaches the generator afterwards, too
        torch.manual_seed(0)
        drawn = [torch.rand(2, device=CUDA)]
        for _ in range(3):
            torch.testing.assert_close(looking(tensor)[0], torch.full((3,), 3.0, device=CUDA))
        drawn.append(torch.rand(2, device=CUDA))
        assert all(map(torch.equal, drawn, expected))
    assert torch.cuda.current_stream() == before
    assert ["kernel by kernel" in entry.message for entry in caplog.records] == [True]
    del looking
    torch.cuda.empty_cache()  # an allocator that believes it is still recording fails here
    noisy = Recorded(lambda tensor: (tensor + torch.rand_like(tensor),), record)
    torch.manual_seed(1)
    recorded = [noisy(tensor)[0] for _ in range(3)]
    torch.manual_seed(1)
    assert all(map(torch.equal, recorded, [tensor + torch.rand_like(tensor) for _ in range(3)]))
    assert noisy.recordings == 1
