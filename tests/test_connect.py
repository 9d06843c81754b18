"""The connect command: what each app is told, and how it is written where that belongs."""

import json
import socket
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from support.commands import runner

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.integrations.apps import APPS
from mlx_gemma4_assist.integrations.jsonc import read_jsonc, with_value
from mlx_gemma4_assist.integrations.toml_table import with_table
from mlx_gemma4_assist.integrations.yaml_list import with_item

NOWHERE = "http://127.0.0.1:1"  # a port that no server has
MODEL = "google/gemma-4-E2B-it"
TYPED = ("--url", NOWHERE, "--model", MODEL, "--context", "100000")
FILES = {
    "zed": ".config/zed/settings.json",
    "continue": ".continue/config.yaml",
    "opencode": ".config/opencode/opencode.json",
    "codex": ".codex/config.toml",
    "claude": ".claude/settings.json",
    "raycast": ".config/raycast/ai/providers.yaml",
    "llm": "llm/extra-openai-models.yaml",
}
# What is there before, and what of it must be there afterwards.
OTHERS = {
    "zed": (
        '// Mine\n{\n  "theme": "One", // dark\n  "language_models": {"ollama": {}},\n}\n',
        ["// Mine\n", "// dark\n", '"ollama"'],
    ),
    "continue": (
        "# Mine\nname: Me\nmodels:\n  # the first\n  - name: Other\n    model: x\n",
        ["# Mine\n", "# the first\n", "Me"],
    ),
    "opencode": ('{"theme": "x", "provider": {"other": {}}}', ['"theme": "x"', '"other": {}']),
    "codex": (
        '# Mine\nmodel = "gpt-5"\n\n[mcp_servers.a]\ncommand = "b"\n',
        ["# Mine\n", 'model = "gpt-5"', "mcp_servers.a"],
    ),
    "claude": ('{"permissions": {"allow": []}, "env": {"A": "b"}}', ['"allow": []', '"A": "b"']),
    "raycast": ("providers:\n- id: other\n  name: Other # mine\n", ["# mine\n", "id: other"]),
    "llm": ("- model_id: other\n", ["model_id: other"]),
}
READ = {".json": read_jsonc, ".yaml": yaml.safe_load, ".toml": tomllib.loads}


@pytest.fixture
def connect(monkeypatch, capsys, tmp_path):
    """The command in this process, with a home folder of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    for name in ("CODEX_HOME", "MLX_GEMMA4_ASSIST_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    run = runner(monkeypatch, capsys)
    return lambda *arguments: run("connect", *arguments)


def backups(file):
    return [path for path in file.parent.iterdir() if ".before-" in path.name]


def test_every_app_is_known():
    assert {*FILES, "xcode"} == APPS.keys()


@pytest.mark.parametrize("app", FILES)
def test_lines_to_paste(connect, tmp_path, app):
    done = connect(app, *TYPED)
    assert done.returncode == 0, done.stderr
    assert NOWHERE in done.stdout
    assert MODEL in done.stdout + done.stderr
    assert str(tmp_path / FILES[app]) in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("app", [app for app in FILES if app != "claude"])
def test_what_is_pasted_into_an_empty_file_is_what_is_written(connect, tmp_path, app):
    file = tmp_path / FILES[app]
    pasted = READ[file.suffix](connect(app, *TYPED).stdout)
    connect(app, *TYPED, "--write")
    written = READ[file.suffix](file.read_text())
    assert written == pasted or {**written, **pasted} == written


@pytest.mark.parametrize("app", FILES)
def test_written_beside_what_is_there(connect, tmp_path, app):
    """With a copy of it, once; a later key replaces the earlier one."""
    file = tmp_path / FILES[app]
    before, kept = OTHERS[app]
    file.parent.mkdir(parents=True)
    file.write_text(before)
    file.chmod(0o640)
    shown = connect(app, *TYPED, "--dry-run")
    assert (shown.returncode, file.read_text()) == (0, before), shown.stderr
    assert f"+++ {file}" in shown.stdout
    done = connect(app, *TYPED, "--write")
    assert done.returncode == 0, done.stderr
    written = file.read_text()
    assert NOWHERE in written
    assert [words for words in kept if words not in written] == []
    assert file.stat().st_mode & 0o777 == 0o640
    assert [backup.read_text() for backup in backups(file)] == [before]
    again = connect(app, *TYPED, "--write")
    assert "has it already" in again.stderr
    assert (file.read_text(), len(backups(file))) == (written, 1)
    connect(app, "--url", "http://127.0.0.1:2", "--model", MODEL, "--context", "100000", "--write")
    changed = file.read_text()
    assert changed == written.replace(NOWHERE, "http://127.0.0.1:2")


@pytest.mark.parametrize("app", FILES)
def test_a_file_that_is_not_as_expected_is_left_alone(connect, tmp_path, app):
    file = tmp_path / FILES[app]
    file.parent.mkdir(parents=True)
    file.write_text("{[ : \n")
    done = connect(app, *TYPED, "--write")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"{file} is left as it is" in line
    assert "paste the lines yourself" in line
    assert file.read_text() == "{[ : \n"
    assert backups(file) == []


def test_keys(connect, monkeypatch, tmp_path):
    """Where an app keeps one, it is there; Codex and Zed have it in the environment."""
    monkeypatch.setenv("MLX_GEMMA4_ASSIST_API_KEY", "secret")
    for app, file in FILES.items():
        done = connect(app, *TYPED, "--write")
        assert "secret" in (tmp_path / file).read_text() + done.stderr, app
        assert (tmp_path / file).stat().st_mode & 0o077 == 0
    assert 'env_key = "GEMMA4_API_KEY"' in (tmp_path / FILES["codex"]).read_text()
    assert "secret" not in (tmp_path / FILES["codex"]).read_text() + (tmp_path / FILES["zed"]).read_text()
    assert "API Key: secret" in connect("xcode", *TYPED).stdout


def test_xcode_keeps_its_own(connect):
    done = connect("xcode", *TYPED)
    assert done.stdout.startswith("Locally Hosted, port 1\n")
    assert "URL: http://mac.local:8080\n" in connect("xcode", "--url", "http://mac.local:8080", *TYPED[2:]).stdout
    written = connect("xcode", *TYPED, "--write")
    assert (written.returncode, written.stdout) == (2, "")


def test_a_commented_configuration_of_opencode_is_preferred(connect, tmp_path):
    file = tmp_path / ".config" / "opencode" / "opencode.jsonc"
    file.parent.mkdir(parents=True)
    file.write_text("{} // mine\n")
    connect("opencode", *TYPED, "--write")
    assert file.read_text().endswith("} // mine\n")
    assert not file.with_suffix(".json").exists()


def test_a_link_stays_one(connect, tmp_path):
    """As those have it who keep their settings elsewhere."""
    file, elsewhere = tmp_path / FILES["codex"], tmp_path / "elsewhere.toml"
    file.parent.mkdir()
    elsewhere.write_text("")
    file.symlink_to(elsewhere)
    connect("codex", *TYPED, "--write")
    assert file.is_symlink()
    assert "wire_api" in elsewhere.read_text()


def test_the_server_is_asked(connect):
    """Unless name and context are given; with the key."""
    asked = []

    class Models(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            body = json.dumps({"data": [{"id": "mine", "context_length": 4096, "capabilities": ["tools"]}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        model = read_jsonc(connect("opencode", "--url", f"{url}/v1/", "--api-key", "secret").stdout)["provider"][
            "gemma4"
        ]["models"]
        assert model["mine"]["limit"] == {"context": 4096, "output": 2048}
        assert (model["mine"]["tool_call"], model["mine"]["attachment"], model["mine"]["reasoning"]) == (
            True,
            False,
            False,
        )
        assert asked == [("/v1/models", "Bearer secret")]
    finally:
        server.shutdown()
        server.server_close()


def test_without_a_server_that_is_said(connect):
    done = connect("opencode", "--url", NOWHERE)
    assert f"No server answers at {NOWHERE}" in done.stderr
    assert '"default"' in done.stdout


def unknown(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_a_machine_that_is_not_there_now_may_be_named(connect, monkeypatch):
    """Where nothing has to be asked of it."""
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for url in ("http://mac.invalid", "mac:8080", "mac.invalid"):
        assert connect("zed", "--url", url, *TYPED[2:]).returncode == 0


def test_lines_for_a_shell_are_not_said_to_be_in_a_file(connect, tmp_path):
    done = connect("claude", *TYPED)
    assert done.stdout.startswith("export ANTHROPIC_BASE_URL=")
    heading, *_ = done.stderr.splitlines()
    assert heading.startswith("For a shell, ")
    assert heading.endswith(f"--write sets them for all sessions, in {tmp_path / FILES['claude']}:")
    assert "which --write puts it into" not in done.stderr
    assert f"In {tmp_path / FILES['zed']}, which --write puts it into:" in connect("zed", *TYPED).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("emacs",), "no app 'emacs'"),
        (("zed", "--url", "ftp://a"), "--url is 'ftp://a'"),
        (("zed", "--url", "http://a:b"), "--url is 'http://a:b'"),
        (("zed", "--url", "nonsense"), "--url is 'nonsense', expected an address"),
        (("zed", "--url", "http://nonsense.invalid"), "no machine of that name is known here"),
        (("zed", "--context", "0"), "--context is 0"),
        ((), "app"),
    ],
)
def test_bad_input_gets_one_line(connect, monkeypatch, arguments, message):
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    done = connect(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert message.lower() in line.lower()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "a": {\n    "b": 1\n  }\n}\n'),
        ("{}", '{\n  "a": {\n    "b": 1\n  }\n}'),
        ('{"c": 2}', '{"c": 2,\n  "a": {\n    "b": 1\n  }\n}'),
        ('{\n    "c": 2, // last\n}', '{\n    "c": 2, // last\n    "a": {\n      "b": 1\n    }\n}'),
        ('{\n\t"c": 2 /* , */\n}\n', '{\n\t"c": 2, /* , */\n\t"a": {\n\t  "b": 1\n\t}\n}\n'),
        ('{"a": {"b": 2}, "c": "//"}', '{"a": {"b": 1}, "c": "//"}'),
        ('{"a": {"b": 1}} // as it is', '{"a": {"b": 1}} // as it is'),
    ],
)
def test_json_is_edited_in_one_place(before, after):
    assert with_value(before, ("a", "b"), 1) == after
    assert read_jsonc(after)["a"]["b"] == 1


@pytest.mark.parametrize(
    "text", ["[]", '{"a": 1}', "{", '{"a": {}} x', "{'a': 1}", '{"a" 1}', "{1: 2}", '{"a": {]}', "[" * 999]
)
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(InputError):
        with_value(text, ("a", "b"), 1)


ITEM = {"id": "x", "n": 1}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "v: 1\nl:\n  - id: x\n    n: 1\n"),
        ("# mine\n", "# mine\nv: 1\nl:\n  - id: x\n    n: 1\n"),
        ("a: 2", "a: 2\nl:\n  - id: x\n    n: 1\n"),
        ("l:\nb: 3\n", "l:\n  - id: x\n    n: 1\nb: 3\n"),
        ("l: []\nb: 3\n", "l:\n  - id: x\n    n: 1\nb: 3\n"),
        ("l:\n- id: y\n", "l:\n- id: x\n  n: 1\n- id: y\n"),
        ("l:\n    - id: y\n", "l:\n    - id: x\n      n: 1\n    - id: y\n"),
        ("l:\n  - id: x\n    n: 2\n\n  # next\n  - id: y\n", "l:\n  - id: x\n    n: 1\n\n  # next\n  - id: y\n"),
        ("l:\n  - n: 1\n    id: x # as it is\n", "l:\n  - n: 1\n    id: x # as it is\n"),
    ],
)
def test_yaml_is_edited_in_one_place(before, after):
    assert with_item(before, "l", ITEM, "id", {"v": 1}) == after


@pytest.mark.parametrize("text", ["[]", "5", "l: 5", "{a: 1}", "l: [{id: y}]", "a: [", "l:\n  -\n    id: x\n"])
def test_yaml_that_cannot_be_edited_is_refused(text):
    with pytest.raises(InputError):
        with_item(text, "l", ITEM, "id", {})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "[a.b]\nn = 1\n"),
        ("m = 2", "m = 2\n\n[a.b]\nn = 1\n"),
        ("[a.b]\nn = 2\no = 3\n\n# next\n[c]\n", "[a.b]\nn = 1\n\n# next\n[c]\n"),
        ("[a]\nb = {n = 1}\n", "[a]\nb = {n = 1}\n"),
    ],
)
def test_toml_is_edited_in_one_place(before, after):
    assert with_table(before, ("a", "b"), {"n": 1}) == after


@pytest.mark.parametrize("text", ["a = ", "a = 1", "[a]\nb = {n = 2}\n", "a.b.n = 2"])
def test_toml_that_cannot_be_edited_is_refused(text):
    with pytest.raises(InputError):
        with_table(text, ("a", "b"), {"n": 1})


@pytest.mark.parametrize(("key", "which"), [((), "a key"), (("--api-key", "wrong"), "another key")])
def test_a_server_that_wants_a_key_is_not_taken_for_none(connect, key, which):
    """Nothing is guessed of it, and so nothing wrong is written."""
    said = {"do_GET": lambda self: self.send_error(401), "log_message": lambda *_: None}
    handler = type("Refusing", (BaseHTTPRequestHandler,), said)
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.handle_request, daemon=True).start()
    done = connect("llm", "--url", f"http://127.0.0.1:{server.server_port}", "--write", *key)
    server.server_close()
    assert done.returncode == 2
    assert f"asks for {which}: --api-key, or MLX_GEMMA4_ASSIST_API_KEY" in done.stderr
