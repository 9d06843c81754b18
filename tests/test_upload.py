"""Uploads, to a fake of the Hub's client: nothing here touches the network."""

from fnmatch import fnmatch
from inspect import signature
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, errors
from support.hub import WRONG_SETTINGS, answering_hub

from mlx_gemma4_assist.conversion import upload
from mlx_gemma4_assist.conversion.upload import File, check_repo_id, files_to_upload, upload_folder
from mlx_gemma4_assist.errors import InputError

REPO = "someone/gemma-4-E4B-it-4bit"


class Hub:
    """Stands in for ``HfApi``: remembers calls, holds what was uploaded, fails where it is told to."""

    def __init__(self):
        self.token = None
        self.created = []
        self.files = {}
        self.errors = {}

    def __call__(self, *, token):
        self.token = token
        return self

    def _may_fail(self, call):
        if call in self.errors:
            raise self.errors[call]

    def create_repo(self, repo_id, *, private, exist_ok):
        self._may_fail("create_repo")
        self.created.append((repo_id, private, exist_ok))
        return f"https://example.org/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns, commit_message):
        self._may_fail("upload_folder")
        assert self.created[-1][0] == repo_id
        ignore_patterns += [".git"]  # as the real one does
        for path in folder_path.rglob("*"):
            name = path.relative_to(folder_path).as_posix()
            if path.is_file() and not any(fnmatch(name, pattern) for pattern in ignore_patterns):
                self.files[name] = path.read_bytes()


@pytest.fixture
def hub(monkeypatch):
    fake = Hub()
    monkeypatch.setattr(upload, "HfApi", fake)
    monkeypatch.setattr(upload, "get_token", lambda: "stored")
    return fake


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    contents = {
        "config.json": "{}",
        "model.safetensors": "weights",
        "templates/tool.jinja": "{{ messages }}",
        ".DS_Store": "?",
        "templates/.swp": "?",
        ".cache/huggingface/state": "?",
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    return tmp_path


WANTED = (File("config.json", 2), File("model.safetensors", 7), File("templates/tool.jinja", 14))


def test_files(folder):
    assert files_to_upload(folder) == WANTED


def test_upload(hub, folder):
    done = upload_folder(folder, REPO, private=True)
    assert (hub.token, hub.created) == ("stored", [(REPO, True, True)])
    assert {name: len(text) for name, text in hub.files.items()} == dict(WANTED)
    assert (done.files, done.bytes, done.url) == (WANTED, 23, f"https://example.org/{REPO}")
    assert done.describe().splitlines()[-1] == f"23 bytes in 3 files uploaded to {REPO}"
    upload_folder(folder, REPO)  # again: what was ignored once is not added to
    assert upload.HIDDEN == (".*", "*/.*")


def test_a_token_of_ones_own(hub, folder):
    upload_folder(folder, REPO, token="mine")
    assert hub.token == "mine"


@pytest.mark.parametrize("token", [None, "stored"])
def test_dry_run(hub, folder, monkeypatch, token):
    """Without a token always, with one when asked for."""
    monkeypatch.setattr(upload, "get_token", lambda: token)
    found = upload_folder(folder, REPO, dry_run=token is not None)
    assert (found.files, found.url) == (WANTED, None)
    assert found.describe().splitlines() == [
        " 2  config.json",
        " 7  model.safetensors",
        "14  templates/tool.jinja",
        f"23 bytes in 3 files would be uploaded to {REPO}",
    ]
    assert (hub.token, hub.created, hub.files) == (None, [], {})


@pytest.mark.parametrize(
    "name", ["", "gemma", "a/b/c", "some one/gemma", "someone/ge--mma", "someone/gemma.git", "a/é"]
)
def test_names_that_are_none(hub, folder, name):
    with pytest.raises(InputError, match="is not the name of a repo"):
        check_repo_id(name)
    with pytest.raises(InputError, match="is not the name of a repo"):
        upload_folder(folder, name)
    assert not hub.created


def test_no_model(hub, tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match=r"has no config.json: there is no model to upload"):
            upload_folder(folder, REPO)


def refused(
    status: int, message: str = "no", kind: type = errors.HfHubHTTPError, server: str | None = None
) -> Exception:
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(message, response=response, server_message=server)


@pytest.mark.parametrize("call", ["create_repo", "upload_folder"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            refused(401),
            rf"refused the upload to {REPO} \(HTTP 401 Unauthorized; the token is not valid.*`hf auth login`",
        ),
        (refused(401, kind=errors.RepositoryNotFoundError), "the token is not valid"),
        (refused(403), r"\(HTTP 403 Forbidden; the token has no right to write to someone\): no$"),
        (refused(404, kind=errors.RepositoryNotFoundError), "the token has no right to write to someone"),
        (refused(413, "413 Too large\nby far"), rf"refused the upload to {REPO} \(HTTP 413 .*\): 413 Too large$"),
        (refused(429), "HTTP 429 Too Many Requests; too many requests: wait"),
        (refused(403, server="Storage is full"), r"someone\): Storage is full$"),
        (refused(599), r"\(HTTP 599; its own fault, try again later\): no$"),
        (errors.OfflineModeIsEnabled("offline"), f"cannot upload to {REPO}: HF_HUB_OFFLINE is set"),
        (errors.HTTPError("name resolution failed"), f"uploading to {REPO} failed: name resolution failed; "),
        (ConnectionResetError(104, "Connection reset by peer"), "failed: .*Connection reset by peer"),
        (RuntimeError("Data processing error: no route"), "failed: Data processing error: no route"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_failures_are_one_sentence(hub, folder, call, error, message):
    hub.errors[call] = error
    with pytest.raises(InputError, match=message) as raised:
        upload_folder(folder, REPO)
    assert "\n" not in str(raised.value)
    assert "stored" not in str(raised.value)


def test_offline_for_real(folder, monkeypatch):
    """The Hub's own client, told to stay offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        upload_folder(folder, REPO, token="hf_anything")


@pytest.fixture
def answers(monkeypatch, tmp_path):
    with answering_hub(monkeypatch, tmp_path / "cache") as given:
        yield given


ANSWERS = [
    (401, b"", "HTTP 401 Unauthorized; the token is not valid"),
    (403, b"", "HTTP 403 Forbidden; the token has no right to write to someone"),
    (403, b'{"error": "Storage is full"}', "has no right to write to someone.*: .*Storage is full"),
    (404, b"", "HTTP 404 Not Found; the token has no right to write to someone"),
    (429, b"", "HTTP 429 Too Many Requests; too many requests: wait"),
    (500, b"", "HTTP 500 Internal Server Error; its own fault"),
    (503, b"<html>Sorry</html>", "HTTP 503 Service Unavailable; its own fault"),
    (200, b"<html>Please log in to this hotel</html>", "what HF_ENDPOINT or a proxy leads to is not the Hub"),
    (200, b"[1, 2]", "what HF_ENDPOINT or a proxy leads to is not the Hub"),
    (200, b"{}", "what HF_ENDPOINT or a proxy leads to is not the Hub"),
    (None, b"", f"uploading to {REPO} failed: .*(disconnected|closed|reset)"),
]


@pytest.mark.parametrize(("status", "body", "message"), ANSWERS)
def test_refused_for_real(answers, folder, status, body, message):
    """The Hub's own client, and a Hub that refuses, fails, or is none."""
    answers |= {"status": status, "body": body}
    with pytest.raises(InputError, match=message) as raised:
        upload_folder(folder, REPO)
    assert "\n" not in str(raised.value)
    assert "hf_of_nobody" not in str(raised.value)


@pytest.mark.parametrize("setting", WRONG_SETTINGS)
def test_settings_that_are_wrong(answers, monkeypatch, folder, setting):
    setting(monkeypatch)
    with pytest.raises(InputError, match=f"uploading to {REPO} failed: .*; what has arrived") as raised:
        upload_folder(folder, REPO)
    assert "\n" not in str(raised.value)
    assert "hf_" not in str(raised.value)


def test_a_stored_token_that_is_none(answers, monkeypatch, folder, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_bytes(b"hf_\xff")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(InputError, match=f"uploading to {REPO} failed: the token .* is not ASCII"):
        upload_folder(folder, REPO)
    assert upload_folder(folder, REPO, dry_run=True).url is None


def test_the_real_client_takes_what_the_fake_takes():
    names = {"create_repo": ["repo_id", "private", "exist_ok"]}
    names["upload_folder"] = ["repo_id", "folder_path", "ignore_patterns", "commit_message"]
    for method, parameters in names.items():
        assert set(parameters) <= set(signature(vars(HfApi)[method]).parameters)
        assert set(parameters) <= set(signature(vars(Hub)[method]).parameters)
