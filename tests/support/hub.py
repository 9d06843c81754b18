"""A Hub on this machine that answers as it is told, for the Hub's own library to talk to."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

REPO = "someone/mine"


@contextmanager
def answering_hub(patch: pytest.MonkeyPatch, cache: Path) -> Iterator[dict[str, Any]]:
    """Put its status (None closes the connection without an answer) and body into the dictionary."""
    given = {"status": 200, "body": b""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if given["status"] is None:
                self.close_connection = True
                return
            self.send_response(given["status"])
            self.send_header("Content-Length", str(len(given["body"])))
            self.end_headers()
            self.wfile.write(given["body"])

        do_HEAD = do_POST = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    patch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    # What it asks for by the way is kept for a day, whatever the answer: not in the user's folder.
    patch.setattr("huggingface_hub.constants.AGENT_HARNESSES_PATH", str(cache / "harnesses.json"), raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        patch.delenv(name, raising=False)
    patch.setenv("HF_TOKEN", "hf_of_nobody")
    huggingface_hub.close_session()
    yield given
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()


def socks(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")


def letters(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("HF_TOKEN", "hf_ключ")


def nobody_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


def endpoint(value: str):
    return lambda patch: patch.setattr("huggingface_hub.constants.ENDPOINT", value)


WRONG_SETTINGS = (
    socks,
    letters,
    nobody_there,
    *map(endpoint, ("mirror", "", "http://", "http://[::1", "http://127.0.0.1:port")),
)
"""What a user may have set wrongly: called with pytest's ``monkeypatch``."""
