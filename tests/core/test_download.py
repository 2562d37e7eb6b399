"""Whole image sets from servers that have small archives of the same shape; nothing here needs the internet."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from core.datasets import load_manifest
from core.download import download, fetch
from core.download_catalogue import CATALOGUE, Collection, RemoteFile, mirrored
from core.download_names import NAMES
from core.errors import InputError
from core.transfer import Patience
from tests.fixtures.images import draw_image
from tests.fixtures.server import Quirk, Server, dataverse_answer, noise, serving, zipped

ROOT = Path(__file__).resolve().parents[2]
HASTY = Patience(connect_s=2, read_s=1.0, tries=2, pause_s=0.001)
PART_1, PART_2, TABLE = "HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip", "HAM10000_metadata"
API = "/api/datasets/:persistentId/"


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    draw_image(seed, (60, 45)).save(buffer, "JPEG")
    return buffer.getvalue()


def ham10000() -> dict[str, bytes]:
    """The three files of HAM10000 with 20 images and, in the second part, bytes that make it large."""
    names = [f"ISIC_{24_300 + row:07d}" for row in range(20)]
    images = {f"{name}.jpg": jpeg(row) for row, name in enumerate(names)}
    lines = [f"HAM_{row:07d},{name},{'nv' if row % 2 else 'mel'},histo,50.0,male,back,vidir_modern"
             for row, name in enumerate(names)]  # fmt: skip
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"
    return {
        PART_1: zipped({name: images[name] for name in list(images)[:10]}),
        PART_2: zipped({**{name: images[name] for name in list(images)[10:]}, "noise.bin": noise(0, 2_000_000)}),
        TABLE: "\n".join([header, *lines, ""]).encode(),
    }


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("DERMATUNE_MIRROR", raising=False)
    with serving({}) as running:
        yield running


def mirror(server: Server) -> str:
    """HAM10000 on a mirror; returns its address."""
    server.files = {f"/mirror/ham10000/{name}": content for name, content in ham10000().items()}
    return f"{server.url}/mirror"


def dataverse(server: Server) -> Collection:
    """HAM10000 on a Dataverse."""
    contents = ham10000()
    numbered = {f"/api/access/datafile/{number}": content for number, content in enumerate(contents.values(), start=1)}
    server.files = {API: dataverse_answer(contents), **numbered}
    return replace(CATALOGUE["ham10000"], dataverse=server.url)


def small(server: Server, content: bytes, *, name: str = "table.csv", checksum: str = "") -> Collection:
    """A set of one file."""
    server.files = {f"/{name}": content}
    file = RemoteFile(name=name, urls=(f"{server.url}/{name}",), checksum=checksum)
    return Collection(name="small", title="Small", licence="free", citation="nobody", page="here", files=(file,))


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"


def test_what_dataverse_has_is_verified_unpacked_and_recognised(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = fetch(dataverse(server), tmp_path / "ham", patience=HASTY)
    out = capsys.readouterr().out

    assert [path.name for path in paths] == ["HAM10000_images_part_1", "HAM10000_images_part_2", TABLE]
    assert md5(ham10000()[PART_1]) in out
    assert sorted(path.name for path in (tmp_path / "ham").iterdir()) == [
        ".downloads", "CHECKSUMS.sha256", "HAM10000_images_part_1", "HAM10000_images_part_2", TABLE,
    ]  # fmt: skip
    assert not list((tmp_path / "ham").rglob("*.zip"))
    manifest = load_manifest(tmp_path / "ham")
    assert len(manifest.paths) == 20
    assert sorted(manifest.classes) == ["mel", "nv"]


def test_the_same_command_again_fetches_nothing_and_says_so(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collection = dataverse(server)
    first = fetch(collection, tmp_path, patience=HASTY)
    server.requests.clear()
    capsys.readouterr()

    assert fetch(collection, tmp_path, patience=HASTY) == first
    assert server.requests == []
    assert capsys.readouterr().out.endswith("everything is there, nothing is fetched\n")


def test_only_what_has_been_removed_is_fetched_again(server: Server, tmp_path: Path) -> None:
    collection = mirrored(CATALOGUE["ham10000"], mirror(server))
    fetch(collection, tmp_path, patience=HASTY)
    shutil.rmtree(tmp_path / "HAM10000_images_part_1")
    server.requests.clear()
    fetch(collection, tmp_path, patience=HASTY)

    assert [request.path for request in server.requests] == [f"/mirror/ham10000/{PART_1}"]
    assert len(list((tmp_path / "HAM10000_images_part_1").iterdir())) == 10


def test_the_licence_is_shown_before_anything_is_asked_for(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=f"from {server.url}/api/datasets/.*DBW86T, but got status 404"):
        fetch(replace(CATALOGUE["ham10000"], dataverse=server.url), tmp_path, patience=HASTY)
    out = capsys.readouterr().out
    assert "licence  CC BY-NC 4.0" in out
    assert "cite     Tschandl" in out
    assert "fetch" not in out


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"{}", r"got KeyError for 'data'"),
        (b'{"data": {"latestVersion": {"files": [3]}}}', "got TypeError"),
        (dataverse_answer({PART_1: b"x", TABLE: b"x"}), "got KeyError for 'HAM10000_images_part_2.zip.tab'"),
        (dataverse_answer(ham10000(), md5="../x"), "got ValueError for an MD5"),
        (dataverse_answer(ham10000(), id="7/../8"), "got ValueError for invalid literal"),
        (b"<html>", "but got Expecting value"),
    ],
)
def test_a_dataverse_that_says_something_else_is_one_sentence(
    answer: bytes, fault: str, server: Server, tmp_path: Path
) -> None:
    collection = dataverse(server)
    server.files[API] = answer

    with pytest.raises(InputError, match=f"{server.url}/api/datasets.*{fault}"):
        fetch(collection, tmp_path, patience=HASTY)


def test_of_a_table_that_dataverse_has_converted_no_checksum_is_believed(server: Server, tmp_path: Path) -> None:
    collection = dataverse(server)
    contents = ham10000()
    answer = json.loads(dataverse_answer(contents))
    table = answer["data"]["latestVersion"]["files"][2]["dataFile"]
    table.update(filename=f"{TABLE}.tab", originalFileFormat="text/csv", md5="0" * 32)
    server.files[API] = json.dumps(answer).encode()
    fetch(collection, tmp_path, patience=HASTY)

    assert (tmp_path / TABLE).read_bytes() == contents[TABLE]


def test_a_mirror_has_the_files_by_their_names(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DERMATUNE_MIRROR", f"{mirror(server)}/")
    download("ham10000", tmp_path)

    assert {request.path for request in server.requests} == server.files.keys()


def test_checksums_of_the_catalogue_hold_for_mirrors_too(server: Server, tmp_path: Path) -> None:
    server.files = {"/dermamnist/dermamnist_224.npz": b"another"}

    with pytest.raises(InputError, match=r"dermamnist_224\.npz from .* must have md5 8974907d8e169bef5f5b96bc506ae45d"):
        download("dermamnist", tmp_path, base_url=server.url)
    assert not list(tmp_path.rglob("*.npz*"))


@pytest.mark.parametrize("base", ["ftp://mirror", "/srv/mirror"])
def test_a_mirror_must_be_a_web_address(base: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"`DERMATUNE_MIRROR` must start with http:// or https://, but got {base}"):
        download("ham10000", tmp_path, base_url=base)


def test_an_unknown_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be one of ham10000, isic2018, .*, but got cifar10"):
        download("cifar10", tmp_path)


def test_a_file_as_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"must be a folder, but .* is a file"):
        download("ham10000", tmp_path / "file")


def test_a_folder_with_another_set_is_refused_before_anything_is_fetched(server: Server, tmp_path: Path) -> None:
    collection = replace(small(server, b"content"), name="isic2018")
    fetch(collection, tmp_path / "downloaded", patience=HASTY)
    (tmp_path / "brought" / "nv").mkdir(parents=True)
    server.requests.clear()

    with pytest.raises(InputError, match=r"`--download other` must be .* other sets, but isic2018 was downloaded"):
        fetch(replace(collection, name="other"), tmp_path / "downloaded", patience=HASTY)
    with pytest.raises(InputError, match=r"but .*/brought already has nv\. Give a new folder"):
        fetch(collection, tmp_path / "brought", patience=HASTY)
    assert server.requests == []
    assert [path.name for path in (tmp_path / "brought").iterdir()] == ["nv"]
    assert fetch(collection, tmp_path / "downloaded", patience=HASTY)


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "Thumbs.db", "desktop.ini", "lost+found/"])
def test_what_nobody_takes_for_data_keeps_no_set_out(server: Server, tmp_path: Path, name: str) -> None:
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("Photographs of lesions\n")
    assert fetch(small(server, b"content"), tmp_path, patience=HASTY)


@pytest.mark.parametrize("name", ["a.jpg", "labels.csv", "set.npz", "table"])
def test_what_may_be_data_keeps_another_set_out(server: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("image,dx\na,nv\n")
    with pytest.raises(InputError, match=rf"already has {name}\. Give a new folder"):
        fetch(small(server, b"content"), tmp_path, patience=HASTY)


def test_the_next_address_is_asked_if_the_first_has_nothing(server: Server, tmp_path: Path) -> None:
    collection = small(server, b"content")
    (file,) = collection.files
    both = replace(file, urls=(f"{server.url}/gone", *file.urls))
    fetch(replace(collection, files=(both,)), tmp_path, patience=HASTY)
    assert (tmp_path / "table.csv").read_bytes() == b"content"

    neither = replace(file, name="other", urls=(f"{server.url}/gone", f"{server.url}/too"))
    with pytest.raises(InputError, match=f"from {server.url}/gone, but got status 404"):
        fetch(replace(collection, files=(neither,)), tmp_path, patience=HASTY)


def test_a_file_without_published_checksum_is_held_to_its_first_download(server: Server, tmp_path: Path) -> None:
    collection = small(server, b"content")
    fetch(collection, tmp_path, patience=HASTY)
    noted = f"{hashlib.sha256(b'content').hexdigest()}  table.csv\n"
    assert (tmp_path / "CHECKSUMS.sha256").read_text() == noted

    (tmp_path / "table.csv").unlink()
    server.files["/table.csv"] = b"changed"
    with pytest.raises(
        InputError, match=r"must have sha256 ed70.*, but has .*remove its line from .*CHECKSUMS\.sha256"
    ):
        fetch(collection, tmp_path, patience=HASTY)
    assert not (tmp_path / "table.csv").exists()


def test_a_damaged_archive_is_fetched_anew_by_the_next_run(server: Server, tmp_path: Path) -> None:
    whole = zipped({"a": b"a", "b": b"b"})
    collection = small(server, whole[:-5], name="set.zip")
    with pytest.raises(InputError, match=r"set\.zip must be a whole zip file"):
        fetch(collection, tmp_path, patience=HASTY)
    server.files["/set.zip"] = whole

    assert fetch(collection, tmp_path, patience=HASTY) == [tmp_path / "a", tmp_path / "b"]


def test_an_archive_that_waits_for_room_is_not_fetched_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = small(server, zipped({"a": b"a"}), name="set.zip")
    (tmp_path / ".downloads").mkdir()  # begun before
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(InputError, match="must not overwrite other files"):
        fetch(collection, tmp_path, patience=HASTY)
    (tmp_path / "a").unlink()
    fetch(collection, tmp_path, patience=HASTY)

    assert len(server.requests) == 1


def test_another_file_in_the_place_is_kept(server: Server, tmp_path: Path) -> None:
    collection = small(server, b"content")
    (tmp_path / "table.csv").write_bytes(b"mine")

    with pytest.raises(InputError, match=r"must not overwrite another file, but .*table\.csv has other bytes"):
        fetch(collection, tmp_path, patience=HASTY)
    assert (tmp_path / "table.csv").read_bytes() == b"mine"


def test_a_file_that_is_known_by_its_checksum_is_adopted_or_refused_unfetched(server: Server, tmp_path: Path) -> None:
    collection = small(server, b"content", checksum=md5(b"content"))
    (tmp_path / "table.csv").write_bytes(b"other")
    with pytest.raises(InputError, match="to be kept, but has other bytes"):
        fetch(collection, tmp_path, patience=HASTY)
    (tmp_path / "table.csv").write_bytes(b"content")

    assert fetch(collection, tmp_path, patience=HASTY) == [tmp_path / "table.csv"]
    assert server.requests == []


@pytest.mark.parametrize("member", [".downloads/small.json", "CHECKSUMS.sha256"])
def test_an_archive_cannot_write_our_records(member: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must not write our own records"):
        fetch(small(server, zipped({member: b"{}"}), name="set.zip"), tmp_path, patience=HASTY)


@pytest.mark.parametrize("text", ["[]", "{", '{"table.csv": {"parts": [7]}}', '{"table.csv": {"parts": []}}'])
def test_a_list_of_what_is_done_that_makes_no_sense_is_done_again(text: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads" / "small.json").write_text(text)
    fetch(small(server, b"content"), tmp_path, patience=HASTY)

    assert (tmp_path / "table.csv").read_bytes() == b"content"


def test_two_downloads_never_write_to_one_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".downloads").mkdir()
    with (
        filelock.FileLock(tmp_path / ".downloads" / "lock"),
        pytest.raises(InputError, match="One download at a time may write to"),
    ):
        fetch(small(server, b"content"), tmp_path, patience=HASTY)


def test_the_room_for_all_of_it_is_asked_for_first(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**13, 10**13, 5 * 10**9))

    with pytest.raises(InputError, match=r"must have about 6,019 MB free, but has 5,000 MB"):
        download("isic2018", tmp_path, base_url=server.url)
    assert server.requests == []


def test_a_bar_counts_every_megabyte(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: dict[str, list[int]] = {}

    class Bar:
        def __init__(self, steps: list[int]) -> None:
            self.steps = steps

        def advance(self, n: int = 1) -> None:
            self.steps.append(n)

    @contextmanager
    def progress(description: str, total: int) -> Iterator[Bar]:
        counted[description] = [total]
        yield Bar(counted[description])

    monkeypatch.setattr("core.cli.progress", progress)
    fetch(small(server, noise(0, 3_200_000)), tmp_path, patience=HASTY)
    total, *steps = counted["table.csv, MB"]
    assert (total, sum(steps)) == (3, 3)
    assert len(steps) > 1


def test_a_name_that_the_server_gives_is_passed_over(server: Server, tmp_path: Path) -> None:
    collection = small(server, b"content")
    server.always = Quirk(headers={"Content-Disposition": 'attachment; filename="../evil"'})

    assert fetch(collection, tmp_path / "target", patience=HASTY) == [tmp_path / "target" / "table.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("collection", CATALOGUE.values(), ids=NAMES)
def test_every_entry_of_the_catalogue_is_complete_and_encrypted(collection: Collection) -> None:
    names = [file.name for file in collection.files]
    addresses = [url for file in collection.files for url in file.urls] + [collection.page]

    assert collection.licence.startswith("CC BY-NC 4.0")
    assert len(set(names)) == len(names)
    assert all(Path(name).name == name for name in names)
    assert all(address.startswith("https://") for address in addresses)
    assert bool(collection.dataverse) or all(file.urls for file in collection.files)


def run(target: Path, url: str) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "core.datasets", "--download", "ham10000", str(target)]
    env = {**os.environ, "DERMATUNE_MIRROR": url, "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_killed_command_is_continued_by_the_same_command(server: Server, tmp_path: Path) -> None:
    url = mirror(server)
    size = len(server.files[f"/mirror/ham10000/{PART_2}"])
    server.quirks = [Quirk(), Quirk(hang_after=1_500_000)]
    part = tmp_path / "data" / ".downloads" / f"{PART_2}.part"
    killed = run(tmp_path / "data", url)
    until = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size >= 1_400_000) and time.monotonic() < until:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    held = part.stat().st_size
    server.requests.clear()

    again = run(tmp_path / "data", url)
    out, err = again.communicate(timeout=120)

    assert again.returncode == 0, err
    assert f"there    {PART_1}" in out
    assert [(request.status, request.range) for request in server.requests] == [(206, f"bytes={held}-"), (200, "")]
    assert server.requests[0].sent == size - held < size / 3
    assert (tmp_path / "data" / "HAM10000_images_part_2" / "noise.bin").read_bytes() == noise(0, 2_000_000)
    assert not list((tmp_path / "data" / ".downloads").glob("tmp*"))


def test_the_command_line_refuses_in_one_sentence_with_status_2(server: Server, tmp_path: Path) -> None:
    process = run(tmp_path / "data", server.url)
    _, err = process.communicate(timeout=120)

    assert process.returncode == 2
    assert err.startswith(
        f"python -m core.datasets: error: `--download` must get an answer with the file from {server.url}"
    )
    assert err.count("\n") == 1
