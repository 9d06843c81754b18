"""Downloads that requests name: from public addresses only, wherever a name or a redirect leads."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.media import public
from mlx_gemma4_assist.media.fetch import Bounds, fetch

PUBLIC = Bounds(size=1000, seconds=5, redirects=2, public=True)


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("1.1.1.1", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%en0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:1.1.1.1", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("ff02::1", False),
        ("localhost", False),
    ],
)
def test_whose_an_address_is(address, whose):
    assert public.is_public(address) is whose


@pytest.fixture
def server():
    """Answers with what it is asked for, and redirects to what a query names."""
    asked = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            path, _, target = self.path.partition("?")
            self.send_response(302 if target else 200)
            if target:
                self.send_header("Location", target)
            self.send_header("Content-Length", str(len(path)))
            self.end_headers()
            self.wfile.write(path.encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("0.0.0.0", 0), Answers) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield listening.server_port, asked
        listening.shutdown()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "127.1"])
def test_this_machine_is_not_asked(server, host):
    port, asked = server
    with pytest.raises(InputError, match="no public address"):
        fetch(f"http://{host}:{port}/secret", PUBLIC)
    assert asked == []


def test_a_redirect_leads_nowhere_else(server, monkeypatch):
    """Where 127.0.0.1 stands for everybody's address, and 127.0.0.2 for this machine's."""
    monkeypatch.setattr(public, "is_public", lambda address: address == "127.0.0.1")
    port, asked = server
    assert fetch(f"http://127.0.0.1:{port}/a", PUBLIC) == b"/a"
    assert fetch(f"http://127.0.0.1:{port}/a?http://127.0.0.1:{port}/b", PUBLIC) == b"/b"
    with pytest.raises(InputError, match="no public address"):
        fetch(f"http://127.0.0.1:{port}/a?http://127.0.0.2:{port}/secret", PUBLIC)
    with pytest.raises(InputError):
        fetch(f"http://127.0.0.1:{port}/a?file:///etc/passwd", PUBLIC)
    assert "/secret" not in asked


def test_a_name_with_one_private_address_is_refused(server, monkeypatch):
    """Whichever of its addresses would be taken."""
    port, asked = server
    found = [(2, 1, 6, "", (address, port)) for address in ("1.1.1.1", "127.0.0.1")]
    monkeypatch.setattr(public.socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(InputError, match="no public address"):
        fetch(f"http://example.org:{port}/", PUBLIC)
    assert asked == []


def test_no_proxy_is_asked(server, monkeypatch):
    """It would connect where it likes."""
    port, asked = server
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    with pytest.raises(InputError, match="no public address"):
        fetch("http://127.0.0.3:9/secret", PUBLIC)
    assert asked == []


def test_sizes_are_bounded(server, monkeypatch):
    monkeypatch.setattr(public, "is_public", lambda address: True)
    port, _ = server
    with pytest.raises(InputError, match="larger than"):
        fetch(f"http://127.0.0.1:{port}/{'a' * 2000}", PUBLIC)
