"""The server's routes, doors, health, figures, log, document and page."""

import json
import logging
import re

import pytest
from support.paths import ROOT
from support.serving import (
    KEY,
    LOOPBACK,
    MODEL,
    Client,
    ScriptedBackend,
    ask,
    client_of,
    echo,
)

from mlx_gemma4_assist.server import anthropic_answers, ollama_answers
from mlx_gemma4_assist.server.app import create_app
from mlx_gemma4_assist.server.exchange import RequestError
from mlx_gemma4_assist.server.faults import openai_error
from mlx_gemma4_assist.server.log import JsonLines
from mlx_gemma4_assist.server.names import check_name, is_known
from mlx_gemma4_assist.server.page_files import POLICY, page_files
from mlx_gemma4_assist.server.routes import ENDPOINTS, LOOKUPS
from mlx_gemma4_assist.server.settings import ServerSettings

# Names


@pytest.mark.parametrize(
    "name",
    [
        "google/gemma-4-test",
        "Google/Gemma-4-Test",
        "gemma-4-test",
        "gemma-4-test:latest",
        "pet",
        "extra",
        "default",
        "",
        "gpt-5.2-mini",
        "claude-opus-4-5[1m]",
        "gemini-3-pro",
    ],
)
def test_names_that_are_the_models(name):
    assert is_known(name, MODEL, ("extra",))


@pytest.mark.parametrize(
    "name", ["google", "gemma-4", "gpt", "claude", "test", "other/gemma-4-test", "../gemma", "o\n"]
)
def test_names_that_are_not(name):
    with pytest.raises(RequestError, match="there is google/gemma-4-test, pet, extra") as error:
        check_name(name, MODEL, ("extra",))
    assert (error.value.status, error.value.code, error.value.param) == (404, "model_not_found", "model")


def test_an_unknown_model_is_an_error_of_the_protocol():
    reply = ask(client_of(), "POST", "/v1/echo", {"text": "hi", "model": "nobody/nothing"})
    assert reply.status == 404
    assert reply.json["wrong"].startswith("The model 'nobody/nothing' does not exist here")


# Routes


@pytest.mark.parametrize(
    "path",
    ["/v1/echo", "/echo", "/v1/echo/", "/echo/", "/v1/echo?", "/v1/echo?beta=true&x", "//v1//echo", "/v1/echo//"],
)
def test_paths_as_apps_write_them(path):
    reply = ask(client_of(), "POST", path, {"text": "hi"})
    assert reply.status == 200
    assert reply.json["texts"] == ["Hello, world"]
    assert reply.headers["content-type"] == "application/json"
    assert reply.json["id"] == f"echo-{reply.headers['x-request-id']}"


def test_lookups():
    client = client_of()
    for path in ("/v1/models", "/models/", "/v1/models?"):
        assert ask(client, "GET", path).json == {"data": [MODEL.id]}
    assert ask(client, "GET", "/v1/models/google/gemma-4-test/").json == {"name": "google/gemma-4-test"}
    assert ask(client, "POST", "/v1/tokens", {"text": "ab"}).json == {"ids": [97, 98]}
    assert ask(client, "POST", "/v1/tokens", b"[1]").json["status"] == 400


def test_head_is_get_without_a_body():
    client = client_of()
    reply, whole = ask(client, "HEAD", "/v1/models"), ask(client, "GET", "/v1/models")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-length"] == whole.headers["content-length"] == str(len(whole.body))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/echo", "OPTIONS, POST"),
        ("HEAD", "/v1/echo", "OPTIONS, POST"),
        ("DELETE", "/v1/models", "GET, HEAD, OPTIONS"),
        ("NONSENSE", "/v1/tokens", "OPTIONS, POST"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
    ],
)
def test_wrong_methods(method, path, allowed):
    reply = ask(client_of(), method, path)
    assert reply.status == 405
    assert reply.headers["allow"] == allowed
    if method != "HEAD":
        assert allowed in (reply.json["wrong"] if "wrong" in reply.json else reply.json["error"]["message"])
    options = ask(client_of(), "OPTIONS", path)
    assert (options.status, options.headers["allow"], options.body) == (204, allowed, b"")


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/etc/passwd", "/../../etc/passwd", "/%2e%2e", "/page/../app.py", "/v1"]
)
def test_unknown_routes(path):
    reply = ask(client_of(), "POST", path, {"text": "hi"})
    assert reply.status == 404
    error = reply.json["error"]
    assert error["type"] == "not_found_error"
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/api/pull", ollama_answers.error),
        ("/api", ollama_answers.error),
        ("/api/blobs/sha256:1", ollama_answers.error),
        ("/api/v0/embeddings", openai_error),
        ("/v1/messages/batches", anthropic_answers.error),
        ("/messages/batches", anthropic_answers.error),
        ("/v1/embeddings", openai_error),
        ("/v1/chat", openai_error),
        ("/nothing", openai_error),
        ("/page/nothing", openai_error),
    ],
)
def test_unknown_routes_below_a_protocols_own(path, form):
    """Are told of as that protocol tells of errors."""
    client = Client(create_app(ScriptedBackend(), LOOPBACK, ENDPOINTS, LOOKUPS))
    reply = ask(client, "POST", path, {})
    missing = RequestError(404, f"There is nothing at {path!r}.", "not_found_error", code="not_found")
    assert (reply.status, reply.json) == (404, form(missing))


def test_the_first_of_two_operations_on_a_path_counts():
    client = client_of(endpoints=(echo(), echo(whole=lambda exchange, answer: {"second": True})))
    assert "texts" in ask(client, "POST", "/v1/echo", {"text": "hi"}).json


def test_the_whole_application_comes_together():
    """With the page of the package, and the protocols' own table."""
    from mlx_gemma4_assist.server.routes import ENDPOINTS, LOOKUPS

    client = Client(create_app(ScriptedBackend(), LOOPBACK, ENDPOINTS, LOOKUPS))
    assert ask(client, "GET", "/health").status == 200
    assert ask(client, "GET", "/openapi.json").json["openapi"] == "3.1.0"


# Doors


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "127.0.0.1",
        "[::1]:8080",
        "192.168.1.7:8080",
        "a.localhost",
        "host.docker.internal",
    ],
)
def test_hosts_that_are_the_servers(host):
    assert ask(client_of(), "GET", "/health", headers={"host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example.com", "evil.example.com:8080", "127.0.0.1.evil.com", "localhost.evil.com", "a@localhost", "a b"],
)
def test_foreign_hosts_are_refused(host):
    """A page of a foreign name may have got it to stand for this address."""
    backend = ScriptedBackend()
    reply = ask(client_of(backend), "POST", "/v1/echo", {"text": "hi"}, headers={"host": host})
    assert reply.status == 403
    assert "allow it with --allow-host" in reply.json["wrong"]
    assert backend.requests == []
    assert ask(client_of(), "GET", "/nothing", headers={"host": host}).status == 403
    assert ask(client_of(), "OPTIONS", "/v1/echo", headers={"host": host}).status == 403


def test_no_host():
    assert ask(client_of(), "GET", "/health", headers={"host": ""}).status == 400


def test_named_hosts():
    settings = ServerSettings(allowed_hosts=("gemma.example.org", "*.home.arpa"))
    for host, status in [("Gemma.example.org:1", 200), ("x.home.arpa", 200), ("home.arpa", 403), ("xhome.arpa", 403)]:
        assert ask(client_of(settings=settings), "GET", "/health", headers={"host": host}).status == status


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:3000",
        "http://127.0.0.1:8081",
        "https://127.0.0.1:80",
        "",
        "file://",
    ],
)
def test_foreign_pages_are_refused(origin):
    backend = ScriptedBackend()
    reply = ask(client_of(backend), "POST", "/v1/echo", {"text": "hi"}, headers={"origin": origin})
    assert reply.status == 403
    assert "--allow-origin" in reply.json["wrong"]
    assert backend.requests == []
    assert "access-control-allow-origin" not in reply.headers
    asked = {"origin": origin, "access-control-request-method": "POST"}
    preflight = ask(client_of(), "OPTIONS", "/v1/echo", headers=asked)
    assert preflight.status == 403
    assert "access-control-allow-methods" not in preflight.headers


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://localhost", "localhost:80"),
        ("https://gemma.localhost", "gemma.localhost"),
    ],
)
def test_the_servers_own_page(origin, host):
    reply = ask(client_of(), "POST", "/v1/echo", {"text": "hi"}, headers={"origin": origin, "host": host})
    assert reply.status == 200
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    ("named", "origin", "status"),
    [
        ("https://chat.example.org", "https://chat.example.org", 200),
        ("https://chat.example.org", "https://chat.example.org.evil.com", 403),
        ("https://chat.example.org", "http://chat.example.org", 403),
        ("http://localhost:*", "http://localhost:3000", 200),
        ("http://localhost:*", "http://localhost.evil.com:3000", 403),
        ("app://*", "app://obsidian.md", 200),
        ("null", "null", 200),
    ],
)
def test_named_pages(named, origin, status):
    client = client_of(settings=ServerSettings(allowed_origins=(named,)))
    reply = ask(client, "POST", "/v1/echo", {"text": "hi"}, headers={"origin": origin})
    assert reply.status == status
    if status == 200:
        assert reply.headers["access-control-allow-origin"] == origin
        assert reply.headers["vary"] == "Origin"


def test_a_browsers_question():
    """It is asked without a key, and answered so that the request may bring one."""
    settings = ServerSettings(allowed_origins=("https://chat.example.org",), api_key=KEY)
    asked = {
        "origin": "https://chat.example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
        "access-control-request-private-network": "true",
    }
    reply = ask(client_of(settings=settings), "OPTIONS", "/v1/echo", headers=asked)
    assert reply.status == 204
    assert reply.headers["access-control-allow-origin"] == "https://chat.example.org"
    assert reply.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert reply.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer  {KEY}"}, 200),
        ({"x-api-key": KEY}, 200),
        ({"x-api-key": "wrong", "authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": KEY}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"authorization": f"Bearer {KEY[:-1]}"}, 401),
        ({"x-api-key": "", "authorization": ""}, 401),
        ({"x-api-key": "é"}, 401),
    ],
)
def test_keys(headers, status):
    backend = ScriptedBackend()
    client = client_of(backend, ServerSettings(api_key=KEY))
    reply = ask(client, "POST", "/v1/echo", {"text": "hi"}, headers=headers)
    assert reply.status == status
    if status == 401:
        assert reply.headers["www-authenticate"] == "Bearer"
        assert KEY not in reply.body.decode()
        assert reply.json["status"] == 401
        assert backend.requests == []


def test_what_needs_a_key():
    client = client_of(settings=ServerSettings(api_key=KEY), page=page_files())
    for path in ("/v1/models", "/metrics"):
        assert ask(client, "GET", path).status == 401
        assert ask(client, "GET", path, headers={"x-api-key": KEY}).status == 200
    assert ask(client, "POST", "/v1/thoughts/x/end").status == 401
    assert ask(client, "GET", "/openapi.json").status == 200
    assert ask(client, "GET", "/health").json == {"status": "ok"}
    assert ask(client, "GET", "/health", headers={"x-api-key": KEY}).json["model"] == MODEL.id


def test_without_a_key_any_is_taken():
    assert ask(client_of(), "GET", "/v1/models", headers={"authorization": "Bearer sk-none"}).status == 200


# Health, figures, log, document, page


@pytest.mark.parametrize(
    ("status", "code"), [("ok", 200), ("loading", 200), ("unloaded", 200), ("stuck", 503), ("dead", 503)]
)
def test_health(status, code):
    backend = ScriptedBackend()
    backend.status = status
    reply = ask(client_of(backend), "GET", "/health")
    assert (reply.status, reply.json["status"], reply.json["model"]) == (code, status, MODEL.id)
    assert reply.json["active_memory"] == 1000


def test_metrics():
    client = client_of()
    for stream in (False, True):
        ask(client, "POST", "/v1/echo", {"text": "hi", "stream": stream, "n": 2})
    ask(client, "POST", "/v1/echo", {})
    ask(client, "GET", "/nothing")
    text = ask(client, "GET", "/metrics").body.decode()
    for line in (
        'gemma4_requests_total{endpoint="test.echo",status="200"} 2.0',
        'gemma4_requests_total{endpoint="test.echo",status="400"} 1.0',
        'gemma4_requests_total{endpoint="unknown",status="404"} 1.0',
        "gemma4_prompt_tokens_total 20.0",
        "gemma4_cached_prompt_tokens_total 8.0",
        "gemma4_prefix_hits_total 2.0",
        "gemma4_completion_tokens_total 24.0",
        'gemma4_accepted_tokens_total{place="1"} 8.0',
        'gemma4_accepted_tokens_total{place="2"} 4.0',
        'gemma4_drafted_tokens_total{place="2"} 8.0',
        "gemma4_first_token_seconds_count 2.0",
        "gemma4_tokens_per_round_sum 8.0",
        "gemma4_running_requests 2.0",
        "gemma4_active_memory_bytes 1000.0",
        'gemma4_status{status="ok"} 1.0',
        'gemma4_status{status="dead"} 0.0',
    ):
        assert line in text.splitlines()


def test_each_server_counts_for_itself():
    one, other = client_of(), client_of()
    ask(one, "POST", "/v1/echo", {"text": "hi"})
    assert "test.echo" not in ask(other, "GET", "/metrics").body.decode()


def test_a_line_for_each_request(caplog):
    with caplog.at_level(logging.INFO, "mlx_gemma4_assist.server.requests"):
        ask(client_of(), "POST", "/v1/echo?key=secret", {"text": "private"}, headers={"x-api-key": "secret"})
        ask(client_of(), "GET", "/a\nb", headers={"x-api-key": "secret"})
    lines = [record for record in caplog.records if record.name.endswith(".requests")]
    assert len(lines) == 2
    first, second = (record.getMessage() for record in lines)
    assert first.startswith("POST /v1/echo 200 id=")
    for word in ("endpoint=test.echo", "prompt_tokens=10", "cached_tokens=4", "tokens_per_round=2.0", "finish=stop"):
        assert word in first.split()
    assert second.startswith(r'GET "/a\nb" 404 ')
    assert "secret" not in caplog.text
    assert "private" not in caplog.text
    told = json.loads(JsonLines().format(lines[0]))
    assert (told["path"], told["status"], told["completion_tokens"], told["level"]) == ("/v1/echo", 200, 6, "info")


def test_the_document():
    document = ask(client_of(), "GET", "/openapi.json").json
    assert {"/v1/echo", "/v1/lines", "/v1/models/{name}", "/health", "/metrics"} <= document["paths"].keys()
    operation = document["paths"]["/v1/echo"]["post"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert operation["requestBody"]["required"]
    assert operation["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}

    def followed(reference):
        found = document
        for key in reference.removeprefix("#/").split("/"):
            found = found[key]
        return found

    schema = followed(reference)
    assert followed(schema["properties"]["part"]["$ref"]) == {"type": "object"}
    assert "security" not in document
    locked = ask(client_of(settings=ServerSettings(api_key=KEY)), "GET", "/openapi.json").json
    assert locked["security"] == [{"bearer": []}]


@pytest.fixture
def page(tmp_path):
    for name, text in {
        "index.html": "<p>",
        "app.js": "1",
        "style.css": "p{}",
        "deep/i.svg": "<svg/>",
        ".x": "s",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return client_of(page=page_files(tmp_path))


def test_the_page(page):
    reply = ask(page, "GET", "/")
    assert (reply.status, reply.body) == (200, b"<p>")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(each.split(" ", 1) for each in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert not re.search(r"unsafe|https?:|\*", reply.headers["content-security-policy"])
    for path, kind in {"app.js": "text/javascript", "style.css": "text/css", "deep/i.svg": "image/svg+xml"}.items():
        assert ask(page, "GET", f"/page/{path}").headers["content-type"].split(";")[0] == kind
    assert ask(page, "GET", "/index.html").body == b"<p>"
    assert ask(page, "HEAD", "/").body == b""
    again = ask(page, "GET", "/", headers={"if-none-match": reply.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/page/.x", "/page/deep", "/page", "/page/../index.html", "/page/index.html", "/page/%2e%2e/index.html"]
)
def test_nothing_else_is_opened(page, path):
    assert ask(page, "GET", path).status == 404


def test_its_documentation_has_its_policy():
    page = (ROOT / "docs" / "page.md").read_text()
    assert f"`{POLICY}`" in " ".join(page.split())
