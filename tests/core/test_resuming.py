"""One file from a server that breaks off, changes, hangs or lies."""

import hashlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from core.resuming import ResumingDownloader, WrongBytesError
from core.transfer import Patience, UnreachableError
from tests.fixtures.server import Quirk, Server, noise, serving

CONTENT = noise(0, 500_000)
MD5 = f"md5:{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"
CHUNK = 65_536  # of one that breaks off nothing is kept
HASTY = Patience(connect_s=2, read_s=0.3, tries=3, pause_s=0.001)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving({"/set/file": CONTENT}) as running:
        yield running


def get(server: Server, folder: Path, *, checksum: str = "", path: str = "/set/file") -> bytes:
    download = ResumingDownloader(folder / "file.part", checksum=checksum, patience=HASTY)
    download(server.url + path, str(folder / "file"), None)
    assert sorted(path.name for path in folder.iterdir()) == ["file"]
    return (folder / "file").read_bytes()


def break_off(server: Server, folder: Path, *, after: int = 300_000, **options: Any) -> None:
    """A run that ends in the middle, with nothing coming after."""
    server.quirks = [Quirk(break_after=after, **options), *[Quirk(status=503)] * HASTY.tries]
    with pytest.raises(UnreachableError, match="503"):
        get(server, folder)
    server.quirks.clear()
    server.requests.clear()


def test_a_file_comes_whole_in_one_request(server: Server, tmp_path: Path) -> None:
    assert get(server, tmp_path, checksum=MD5) == CONTENT
    assert [(request.status, request.range) for request in server.requests] == [(200, "")]


def test_a_connection_that_breaks_off_is_resumed_at_once(server: Server, tmp_path: Path) -> None:
    server.quirks = [Quirk(break_after=200_000), Quirk(break_after=150_000)]

    assert get(server, tmp_path) == CONTENT
    assert [request.status for request in server.requests] == [200, 206, 206]
    assert len(CONTENT) <= server.sent <= len(CONTENT) + 2 * CHUNK


def test_breaks_with_a_gain_between_them_never_exhaust_patience(server: Server, tmp_path: Path) -> None:
    server.always = Quirk(break_after=2 * CHUNK)

    assert get(server, tmp_path) == CONTENT
    assert len(server.requests) > HASTY.tries


def test_a_later_run_resumes(server: Server, tmp_path: Path) -> None:
    break_off(server, tmp_path)

    assert get(server, tmp_path) == CONTENT
    assert server.sent <= 200_000 + CHUNK


def test_a_complete_part_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    break_off(server, tmp_path)
    (tmp_path / "file.part").write_bytes(CONTENT)

    assert get(server, tmp_path) == CONTENT
    assert server.requests == []


@pytest.mark.parametrize("quirk", [Quirk(ignore_range=True), Quirk(status=416), Quirk(status=206)])
def test_a_server_that_cannot_resume_sends_it_all_again(quirk: Quirk, server: Server, tmp_path: Path) -> None:
    break_off(server, tmp_path)
    server.quirks = [quirk]

    assert get(server, tmp_path) == CONTENT


@pytest.mark.parametrize("quirk", [Quirk(), Quirk(any_version=True)])
def test_a_file_that_changed_meanwhile_is_never_mixed(quirk: Quirk, server: Server, tmp_path: Path) -> None:
    break_off(server, tmp_path)
    server.files["/set/file"] = noise(1, len(CONTENT))
    server.quirks = [quirk]

    assert get(server, tmp_path) == noise(1, len(CONTENT))


def test_a_file_that_shrank_meanwhile_starts_over(server: Server, tmp_path: Path) -> None:
    break_off(server, tmp_path)
    server.files["/set/file"] = CONTENT[:1_000]
    server.quirks = [Quirk(any_version=True)]

    assert get(server, tmp_path) == CONTENT[:1_000]


def test_without_validator_and_checksum_nothing_is_resumed(server: Server, tmp_path: Path) -> None:
    break_off(server, tmp_path, headers={"ETag": ""})

    assert get(server, tmp_path) == CONTENT
    assert [request.range for request in server.requests] == [""]


def test_with_a_checksum_a_part_without_validator_is_resumed(server: Server, tmp_path: Path) -> None:
    break_off(server, tmp_path, headers={"ETag": ""})

    assert get(server, tmp_path, checksum=MD5) == CONTENT
    assert server.requests[0].range.startswith("bytes=")


def test_parts_of_two_versions_are_found_by_the_checksum_and_fetched_again(server: Server, tmp_path: Path) -> None:
    break_off(server, tmp_path, headers={"ETag": ""})
    (tmp_path / "file.part").write_bytes(noise(2, (tmp_path / "file.part").stat().st_size))

    assert get(server, tmp_path, checksum=MD5) == CONTENT
    assert [request.status for request in server.requests] == [206, 200]


def test_wrong_bytes_are_deleted_and_both_hashes_named(server: Server, tmp_path: Path) -> None:
    server.files["/set/file"] = wrong = noise(3, 10_000)
    found = hashlib.md5(wrong, usedforsecurity=False).hexdigest()

    with pytest.raises(
        WrongBytesError, match=f"^file from {server.url}/set/file must have md5 {MD5[4:]}, but.*{found}"
    ):
        get(server, tmp_path, checksum=MD5)
    assert list(tmp_path.iterdir()) == []
    assert len(server.requests) == 1


@pytest.mark.parametrize(("etag", "accepted"), [(MD5[4:], True), ("0" * 32, False), (f"{'0' * 32}-2", True)])
def test_the_md5_that_s3_gives_as_etag_counts(etag: str, accepted: bool, server: Server, tmp_path: Path) -> None:
    server.always = Quirk(headers={"ETag": f'"{etag}"', "Server": "AmazonS3"})
    if accepted:
        assert get(server, tmp_path) == CONTENT
    else:
        with pytest.raises(WrongBytesError, match="must have md5 0000"):
            get(server, tmp_path)


def test_a_failing_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.quirks = [Quirk(status=500), Quirk(status=429)]

    assert get(server, tmp_path) == CONTENT


@pytest.mark.parametrize(
    ("quirk", "message", "asked"),
    [
        (Quirk(status=404), "status 404 Not Found", 1),
        (Quirk(status=403), "status 403 Forbidden", 1),
        (Quirk(status=500), "status 500 Internal Server Error, 3 times", 3),
        (Quirk(status=416), "status 416 for it", 1),
        (Quirk(status=302, headers={"Location": "/set/file"}), "30 redirects", 31),
        (Quirk(headers={"Content-Encoding": "gzip"}), "a body packed as gzip", 1),
        (Quirk(headers={"Content-Type": "text/html; charset=utf-8"}), "a web page", 1),
        (Quirk(break_after=0), "a connection that broke off, 3 times", 3),
    ],
)
def test_an_address_without_the_file_is_named(
    quirk: Quirk, message: str, asked: int, server: Server, tmp_path: Path
) -> None:
    server.always = quirk

    with pytest.raises(UnreachableError, match=f"{server.url}/set/file, but got .*{message}"):
        get(server, tmp_path)
    assert len(server.requests) == asked


def test_a_silent_server_costs_what_patience_says(server: Server, tmp_path: Path) -> None:
    server.always = Quirk(hang_after=0)

    with pytest.raises(UnreachableError, match=r"silence for 0\.3 s, 3 times in a row"):
        get(server, tmp_path)


def test_a_server_that_falls_silent_is_resumed(server: Server, tmp_path: Path) -> None:
    server.quirks = [Quirk(hang_after=300_000)]

    assert get(server, tmp_path) == CONTENT
    assert [request.status for request in server.requests] == [200, 206]


def test_a_closed_port_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(
            UnreachableError, match=f"from {url}/set/file, but got Connection refused, 3 times in a row"
        ):
            get(Server(url=url), tmp_path)


@pytest.mark.parametrize("url", ["http://", "nonsense", "ftp://127.0.0.1/file"])
def test_what_is_no_web_address_is_one_sentence(url: str, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=f"from {url}"):
        get(Server(url=url), tmp_path, path="")


def test_a_web_page_leaves_the_part_alone(server: Server, tmp_path: Path) -> None:
    break_off(server, tmp_path)
    server.quirks = [Quirk(ignore_range=True, content=b"<html>", headers={"Content-Type": "text/html"})]
    with pytest.raises(UnreachableError, match="a web page"):
        get(server, tmp_path)
    server.requests.clear()

    assert get(server, tmp_path) == CONTENT
    assert [request.status for request in server.requests] == [206]


def test_an_end_that_nothing_tells_is_believed_with_a_checksum_only(server: Server, tmp_path: Path) -> None:
    server.always = Quirk(headers={"Content-Length": ""})
    with pytest.raises(UnreachableError, match="must learn the length of file"):
        get(server, tmp_path)

    assert get(server, tmp_path, checksum=MD5) == CONTENT


def test_redirections_are_followed(server: Server, tmp_path: Path) -> None:
    server.quirks = [Quirk(status=303, headers={"Location": "/set/file?signed"})]

    assert get(server, tmp_path, path="/elsewhere") == CONTENT


def test_a_disk_without_room_is_refused_before_a_byte_is_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 400_000))

    with pytest.raises(InputError, match="must have 0 MB free for file, but has 0 MB"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, signed by itself, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    name = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run(
        [*command, "-keyout", file, "-out", file.with_suffix(".crt"), *name], check=True, capture_output=True
    )
    file.write_bytes(file.read_bytes() + file.with_suffix(".crt").read_bytes())
    return file


def over_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_certificate_that_nobody_vouches_for_is_refused(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving({"/set/file": CONTENT}, tls=over_tls(certificate)) as server:
        with pytest.raises(UnreachableError, match="a certificate that nobody here vouches for"):
            get(server, tmp_path)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_suffix(".crt")))

        assert get(server, tmp_path) == CONTENT


def test_a_redirection_away_from_tls_is_refused(
    certificate: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_suffix(".crt")))
    with serving({}, tls=over_tls(certificate)) as secure:
        secure.always = Quirk(status=302, headers={"Location": f"{server.url}/set/file"})

        with pytest.raises(UnreachableError, match="which isn't encrypted"):
            get(secure, tmp_path)


def test_a_redirection_away_from_tls_and_back_is_refused(
    certificate: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_suffix(".crt")))
    with serving({"/set/file": CONTENT}, tls=over_tls(certificate)) as secure:
        secure.quirks.append(Quirk(status=302, headers={"Location": f"{server.url}/set/file"}))
        server.always = Quirk(status=302, headers={"Location": f"{secure.url}/set/file"})

        with pytest.raises(UnreachableError, match=rf"a redirection to {server.url}/set/file, which isn't encrypted"):
            get(secure, tmp_path)
