"""The hub: silent, closed, refusing and answering ones, all on the loopback interface."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from huggingface_hub import constants
from safetensors.torch import save as to_bytes
from torch import ones

from core import hub

REPO = "timm/some_model"
CONTENT = to_bytes({"weight": ones(3)})


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    """A process that has asked no hub yet, an empty cache and no token, proxy or offline switch of the machine's."""
    monkeypatch.setattr(hub, "_unreachable", {})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def point_at(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """What ``HF_ENDPOINT`` does, which is read once, when the client is imported."""
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@contextmanager
def a_hub(monkeypatch: pytest.MonkeyPatch, status: int) -> Iterator[list[str]]:
    """A hub that has every file, or answers everything with an error; yields the requests that it got."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            requests.append(f"{self.command} {self.path}")
            self.send_response(status)
            self.send_header("ETag", '"0123"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(CONTENT)

        def log_message(self, format, *args):
            """Keeps the server's lines out of the test's output."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    point_at(monkeypatch, server.server_port)
    try:
        yield requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def a_port(monkeypatch: pytest.MonkeyPatch, *, listening: bool) -> Iterator[None]:
    """A port that accepts connections and never says a word, or that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:
            server.listen()
        point_at(monkeypatch, server.getsockname()[1])
        yield


def test_a_silent_hub_is_noticed_within_five_seconds_and_then_remembered(monkeypatch):
    with a_port(monkeypatch, listening=True):
        start = time.monotonic()
        assert not hub.has_weights(REPO)
        first = time.monotonic()
        assert 1 < first - start < 5
        assert not hub.has_weights("timm/another_model")
        assert time.monotonic() - first < 0.1
    assert "can't be reached" in hub.why_unreachable()


def test_a_name_that_never_resolves_is_noticed_as_well(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(hub, "PATIENCE_S", 0.3)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *args, **kwargs: released.wait(10))
    start = time.monotonic()
    assert not hub.has_weights(REPO)
    assert time.monotonic() - start < 2
    assert "no answer in 0.3 s" in hub.why_unreachable()
    released.set()


def test_a_closed_port_is_noticed_at_once(monkeypatch):
    with a_port(monkeypatch, listening=False):
        start = time.monotonic()
        assert not hub.has_weights(REPO)
        assert time.monotonic() - start < 4
    assert "can't be reached" in hub.why_unreachable()


@pytest.mark.parametrize("status", [401, 404, 503])
def test_a_hub_without_the_file_is_no_unreachable_hub(monkeypatch, status):
    with a_hub(monkeypatch, status) as requests:
        assert not hub.has_weights(REPO)
        assert requests == [f"HEAD /{REPO}/resolve/main/{hub.FILE_NAME}"]
    assert hub.why_unreachable() is None


def test_offline_mode_asks_nobody(monkeypatch):
    with a_hub(monkeypatch, 200) as requests:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not hub.has_weights(REPO)
        assert not requests
    assert hub.why_unreachable() == "switched off by HF_HUB_OFFLINE"


def test_a_downloaded_file_is_in_the_cache_from_then_on(monkeypatch):
    assert hub.cached_file(REPO) is None
    with a_hub(monkeypatch, 200):
        assert hub.has_weights(REPO)
        assert hub.download(REPO).read_bytes() == CONTENT
    cached = hub.cached_file(REPO)
    assert cached is not None
    assert cached.read_bytes() == CONTENT


def test_a_download_that_fails_says_so(monkeypatch):
    with a_hub(monkeypatch, 404), pytest.raises(hub.HubError, match="locate the file on the Hub"):
        hub.download(REPO)
