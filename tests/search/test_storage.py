import errno
import os
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages.journal import JournalFileBackend

from core.artifacts import StudiesFolder
from core.errors import InputError
from core.mirror import open_studies
from search.storage import _MendingLock, mend_tail, open_storage, open_study, read_storage


@given(
    st.lists(st.binary(min_size=0, max_size=5000).map(lambda line: line.replace(b"\n", b""))), st.binary(max_size=6000)
)
def test_mending_cuts_what_follows_the_last_whole_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], tail: bytes
) -> None:
    whole = b"".join(line + b"\n" for line in lines)
    tail = tail.replace(b"\n", b"")
    journal = tmp_path_factory.mktemp("journal") / "journal.log"
    journal.write_bytes(whole + tail)
    mend_tail(journal)
    assert journal.read_bytes() == whole


def test_a_torn_last_line_costs_nothing_that_was_written_before(tmp_path: Path) -> None:
    studies = StudiesFolder(tmp_path)
    study = open_study(open_storage(studies), "mobilenet")
    study.tell(study.ask({"lr": optuna.distributions.FloatDistribution(0, 1)}), 0.5)
    with studies.journal_file.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"half a li')
    study.tell(study.ask(), 0.75)  # an append by a process that has been running all along
    again = open_study(open_storage(studies), "mobilenet")
    assert [trial.value for trial in again.trials] == [0.5, 0.75]


def test_a_journal_that_is_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    studies = StudiesFolder(tmp_path)
    open_study(open_storage(studies), "mobilenet")
    text = studies.journal_file.read_text()
    studies.journal_file.write_text("no journal\n" + text)
    with pytest.raises(InputError, match="must be a journal of Optuna, but is damaged"):
        open_storage(studies)


def test_studies_cannot_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="`--studies` must be a folder that can be written to"):
        open_storage(StudiesFolder(tmp_path / "file"))


def test_half_a_line_that_a_full_disk_left_is_gone_before_others_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = StudiesFolder(tmp_path)
    study = open_study(open_storage(studies), "mobilenet")
    whole = studies.journal_file.read_bytes()

    def half(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        with studies.journal_file.open("ab") as file:
            file.write(b'{"op_code":4,"worker_')
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", half)
        with pytest.raises(OSError, match="No space left") as raised:
            study.ask()
    assert raised.value.filename == str(studies.journal_file)
    assert studies.journal_file.read_bytes() == whole


def test_a_lock_that_was_taken_is_not_released_for_its_new_owner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = tmp_path / "journal.log"
    journal.touch()
    slow = _MendingLock(journal, grace_s=60)
    slow.acquire()
    file = tmp_path / "journal.log.lock"
    file.unlink()  # by one that has waited for the grace
    file.touch()
    os.utime(file, (1, 1))
    slow.release()
    assert file.exists()
    assert "was taken from this process while it stood still" in caplog.text


def test_a_url_without_a_journal_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"but file://{tmp_path}/bucket has no journal.log"):
        read_storage(open_studies(f"file://{tmp_path}/bucket"))
