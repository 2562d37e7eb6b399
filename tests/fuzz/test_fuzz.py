"""A few inputs for every reader; `make fuzz` gives a hundred thousand."""

import pytest
from hypothesis import given, settings

from tests.fixtures.hostile import png
from tests.fuzz import __main__ as fuzz
from tests.fuzz.batches import TARGETS, Outcome, load, run_batch
from tests.fuzz.mutations import changed_json, mutated, with_checksums
from tests.fuzz.target import HangError, Target, no_hang, scratch

INPUTS = 150


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_works_or_refuses_whatever_the_bytes(name: str) -> None:
    outcome = run_batch(name, INPUTS, seed=1)
    assert outcome.failure == ""
    assert outcome.inputs >= INPUTS


def test_the_shares_are_of_one_whole() -> None:
    assert sum(load(name).share for name in TARGETS) == pytest.approx(1)


def test_a_plan_has_as_many_inputs_as_were_asked_for_and_no_seed_twice() -> None:
    batches = list(fuzz.plan(12_345, 7, list(TARGETS)))
    assert sum(inputs for _, inputs, _ in batches) == pytest.approx(12_345, abs=len(TARGETS))
    assert len({(name, seed) for name, _, seed in batches}) == len(batches)


def fail_on_long(content: bytes) -> None:
    if len(content) > 20:
        raise KeyError("a defect of ours")


def test_a_defect_is_found_told_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Target("images", 1.0, mutated([b"x" * 18]), fail_on_long)
    monkeypatch.setattr("tests.fuzz.batches.load", lambda name: broken)
    outcome = run_batch("images", 500, seed=0)
    assert "KeyError: 'a defect of ours'" in outcome.failure
    assert "value=b'xxx" in outcome.failure, "the input that shows it is missing"
    assert fuzz.tell({"images": [outcome, Outcome("images", 5, 1.0, "")]}, seed=0) == 1
    assert "failures" in capsys.readouterr().out
    assert fuzz.tell({"images": [Outcome("images", 5, 1.0, "")]}, seed=0) == 0


def test_equal_seeds_give_equal_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    target = Target("images", 1.0, mutated([b"abc" * 30, b"12345" * 20], [b"token"]), seen.append)
    monkeypatch.setattr("tests.fuzz.batches.load", lambda name: target)
    runs = []
    for seed in (0, 0, 1):
        seen.clear()
        run_batch("images", 30, seed)
        runs.append(list(seen))
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) > 20


@no_hang()
def wait() -> None:
    while True:
        pass


def test_a_hang_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.target.LIMIT_S", 0.05)
    with pytest.raises(HangError, match=r"no answer within 0\.05 s"):
        wait()


def test_checksums_are_put_right_so_that_what_was_changed_gets_read() -> None:
    whole = png(8, 8)
    broken = bytearray(whole)
    broken[29] ^= 1
    assert with_checksums(bytes(broken)) == whole
    assert with_checksums(whole) == whole
    assert with_checksums(whole[:20]) == whole[:20]


@given(content=changed_json([{"a": [1, {"b": 2}], "c": "d"}]))
@settings(max_examples=50)
def test_no_mark_of_ours_stays_in_changed_json(content: bytes) -> None:
    assert b"raw" not in content


def test_a_changed_file_is_put_back() -> None:
    studies = load("studies")
    before = folder_of_studies()
    for content in (b"", b"{}", b"\x80\x04\x95"):
        studies.check(("study/study.json", content))
    assert folder_of_studies() == before


def folder_of_studies() -> dict[str, bytes]:
    root = scratch("studies")
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
