"""What the user may name, and which assistant belongs to it. Nothing here goes beyond this machine."""

import json
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants, errors

from mlx_gemma4_assist import load, load_assistant
from mlx_gemma4_assist.checkpoints import hub
from mlx_gemma4_assist.checkpoints.loading import load_model, load_towers
from mlx_gemma4_assist.checkpoints.pairing import SIZES, assistant_for
from mlx_gemma4_assist.errors import InputError

REPO = "google/gemma-4-E2B-it"


@pytest.fixture
def downloads(monkeypatch):
    """What would be asked of the Hub; set ``downloads.error`` to have it fail."""

    class Downloads(list):
        error: Exception | None = None

        def snapshot_download(self, repo, *, revision, allow_patterns, ignore_patterns, local_files_only):
            if local_files_only:
                raise errors.LocalEntryNotFoundError("nothing is in the cache")
            self.append((repo, revision, allow_patterns, ignore_patterns))
            if self.error is not None:
                raise self.error
            return "/cache/snapshot"

    fake = Downloads()
    monkeypatch.setattr(hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_folder(tmp_path, downloads, monkeypatch):
    assert hub.resolve(tmp_path) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    assert hub.resolve("~/models") == tmp_path / "models"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google").mkdir()
    (tmp_path / REPO).mkdir()
    assert hub.resolve(REPO).samefile(tmp_path / REPO)  # a folder comes before a repo
    assert not downloads


def test_repo(downloads):
    assert str(hub.resolve(REPO, revision="main")) == "/cache/snapshot"
    ((repo, revision, patterns, ignored),) = downloads
    assert (repo, revision, ignored) == (REPO, "main", ["*/*"])
    assert {"config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*"} <= set(patterns)


@pytest.mark.parametrize("name", ["./gone", "/gone", "~/gone", "gone", "a/b/c", "gone/", "", "C:\\gone"])
def test_no_such_folder(name, downloads):
    with pytest.raises(InputError, match="no folder .*organisation/name"):
        hub.resolve(name)
    assert not downloads


def test_file(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="is a file, expected a folder"):
        hub.resolve(tmp_path / "model.safetensors")


def test_revision_of_a_folder(tmp_path):
    with pytest.raises(InputError, match="revision 'main' was given, but .* is a folder"):
        hub.resolve(tmp_path, revision="main")


def response(status: int) -> SimpleNamespace:
    return SimpleNamespace(status_code=status, headers={}, request=None)


def offline() -> Exception:
    error = errors.LocalEntryNotFoundError("no snapshot")
    error.__cause__ = errors.OfflineModeIsEnabled("offline")
    return error


def refused(status: int) -> Exception:
    """As ``snapshot_download`` tells that the Hub has refused a repo that is not in the cache."""
    error = errors.LocalEntryNotFoundError("no snapshot")
    error.__cause__ = errors.HfHubHTTPError(f"{status} says the Hub", response=response(status))
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError("404", response=response(404)), f"no repo on the Hub is named {REPO}"),
        (errors.GatedRepoError("403", response=response(403)), f"{REPO} is gated: .*`hf auth login`"),
        (errors.RevisionNotFoundError("404", response=response(404)), f"{REPO} has no revision 'v9'"),
        (errors.LocalEntryNotFoundError("?"), "not complete in the local cache, and the Hub cannot be reached"),
        (offline(), f"{REPO} at revision v9 is not complete in the local cache, and HF_HUB_OFFLINE is set"),
        (errors.HfHubHTTPError("500 Oh no\nlong", response=response(500)), f"the Hub refused {REPO}.*: 500 Oh no$"),
        (refused(403), f"the Hub refused {REPO} at revision v9 .HTTP 403 Forbidden; the token has no right"),
        (refused(429), "HTTP 429 Too Many Requests; too many requests: wait"),
        (refused(503), "HTTP 503 Service Unavailable; its own fault, try again later"),
        (refused(599), "HTTP 599; its own fault"),
        (ImportError("Using SOCKS proxy, but socksio is missing"), "failed: Using SOCKS proxy"),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "what HF_ENDPOINT or a proxy leads to is not the Hub"),
        (UnicodeEncodeError("ascii", "ключ", 0, 4, "ordinal not in range"), "has a letter that is not ASCII"),
        (errors.HFValidationError("bad name"), "is not the name of a repo: bad name"),
        (errors.HTTPError("timed out"), f"downloading {REPO} at revision v9 failed: timed out"),
        (OSError(28, "No space left on device"), "failed: .*No space left on device"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_failures_are_one_sentence(downloads, error, message):
    downloads.error = error
    with pytest.raises(InputError, match=message) as raised:
        hub.resolve(REPO, revision="v9")
    assert "\n" not in str(raised.value)


def test_offline_for_real(tmp_path, monkeypatch):
    """The Hub's own library, told to stay offline, with an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        hub.resolve(REPO)


HOST = urlsplit(constants._HF_DEFAULT_ENDPOINT).hostname


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        (f"{REPO}/", None),
        (f"https://{HOST}/{REPO}", None),
        (f"{HOST}/{REPO}/", None),
        (f"https://hf.co/{REPO}?library=mlx#usage", None),
        (f"https://{HOST}/{REPO}/tree/main", "main"),
        (f"http://{HOST}/{REPO}/blob/v2/config.json", "v2"),
        (f"{HOST}/{REPO}/tree/refs%2Fpr%2F1", "refs/pr/1"),
        (f"https://{HOST}/{REPO}/discussions/7", None),
    ],
)
def test_names_as_they_are_pasted(name, revision, downloads):
    hub.resolve(name)
    hub.resolve(name, revision="own")
    assert [found[:2] for found in downloads] == [(REPO, revision), (REPO, "own")]
    assert assistant_for(name) == "google/gemma-4-E2B-it-assistant"


@pytest.mark.parametrize(
    "name",
    [
        f"https://{HOST}",
        f"https://{HOST}/google",
        f"https://elsewhere.example/{REPO}",
        "https://[/a",
        f"ftp://{HOST}/{REPO}",
        "a\0b",
        "x" * 5000,
        "~nobody-by-this-name/x",
    ],
)
def test_addresses_of_no_repo(name, downloads):
    with pytest.raises(InputError, match="no folder .*organisation/name"):
        hub.resolve(name)
    assert not downloads


@pytest.mark.parametrize("name", [None, 7, b"tiny", ["tiny"]])
@pytest.mark.parametrize("read", [load, load_model, load_assistant, load_towers, assistant_for])
def test_what_is_no_name(read, name):
    with pytest.raises(InputError, match="names no model, expected a folder or organisation/name"):
        read(name)


def test_no_assistant_is_known(downloads, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="assistant_for gives None where it knows no assistant"):
        load_assistant(assistant_for("foo/bar"))


@pytest.mark.parametrize("name", hub.EMBEDDED)
def test_embedded(name, downloads):
    folder = hub.resolve(name)
    assert (folder.name, folder.parent.name) == (name, "assets")
    assert not downloads


# Which assistant


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "name",
    [
        "google/gemma-4-{}-it",
        "mlx-community/gemma-4-{}-it-4bit",
        "mlx-community/gemma-4-{}-it-8bit",
        "mlx-community/gemma-4-{}-it-bf16",
        "mlx-community/gemma-4-{}-it-mxfp4",
        "lmstudio-community/gemma-4-{}-it-MLX-4bit",
        "someone/Gemma-4-{}-it-MLX-6bit",
        "someone/gemma4_{}_it_oQ4e",
    ],
)
def test_assistant_by_name(size, name):
    expected = f"google/gemma-4-{size}-it-assistant"
    assert assistant_for(name.format(size)) == expected
    assert assistant_for(name.format(size.lower())) == expected


@pytest.mark.parametrize(
    "name", ["google/gemma-4-12B-it-qat-q4_0-unquantized", "mlx-community/gemma-4-12b-it-qat-4bit"]
)
def test_assistant_of_a_quantization_aware_training(name):
    assert assistant_for(name) == "google/gemma-4-12B-it-qat-q4_0-unquantized-assistant"


@pytest.mark.parametrize(
    "name",
    [
        "google/gemma-4-E2B",  # base models
        "mlx-community/gemma-4-26b-a4b-4bit",
        "google/gemma-4-E2B-it-assistant",  # assistants themselves
        "google/gemma-4-12B-it-qat-q4_0-unquantized-assistant",
        "google/gemma-3-27b-it",
        "google/medgemma-4-31b-it",
        "someone/gemma-4-31B-italian",
        "mlx-community/Qwen3-4B-4bit",
        "tiny-assistant",
    ],
)
def test_no_assistant_by_name(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert assistant_for(name) is None


def test_assistant_of_the_embedded_target():
    assert assistant_for("tiny") == "tiny-assistant"


def target(folder, config=None, template="{{ messages }}"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma4"} | (config or {})))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def test_neighbours(tmp_path, monkeypatch):
    folder = target(tmp_path / "gemma-4-31B-it")
    (folder / "assistant").mkdir()
    (tmp_path / "gemma-4-31B-it-assistant").mkdir()
    assert assistant_for(folder) == "google/gemma-4-31B-it-assistant"  # both are empty
    (folder / "assistant" / "config.json").write_text("{}")
    assert assistant_for(folder) == str(folder / "assistant")
    (tmp_path / "gemma-4-31B-it-assistant" / "config.json").write_text("{}")
    assert assistant_for(folder) == str(tmp_path / "gemma-4-31B-it-assistant")
    monkeypatch.chdir(folder)
    assert assistant_for(".") == str(tmp_path / "gemma-4-31B-it-assistant")


def test_folder_by_its_names(tmp_path):
    expected = "google/gemma-4-E4B-it-assistant"
    assert assistant_for(target(tmp_path / "gemma-4-e4b-it-4bit")) == expected
    cached = tmp_path / "models--google--gemma-4-E4B-it" / "snapshots" / "0123456789abcdef"
    assert assistant_for(target(cached)) == expected
    assert assistant_for(target(tmp_path / "a", {"_name_or_path": "google/gemma-4-E4B-it"})) == expected
    for name, base in (("b", "google/gemma-4-E4B-it"), ("c", "[google/gemma-4-E4B-it]")):
        folder = target(tmp_path / name)
        (folder / "README.md").write_text(f"---\nbase_model: {base}\n---\n# Mine\n")
        assert assistant_for(folder) == expected


@pytest.mark.parametrize(
    "front",
    [
        b"[: no yaml",
        b"- a list",
        b"7",
        b"1: 2",
        b"base_model: 7",
        b"base_model: [{}, 7]",
        b"base_model: {a: b}",
        b"\xff",
    ],
)
def test_a_card_that_tells_nothing(tmp_path, front):
    folder = target(tmp_path / "d")
    (folder / "README.md").write_bytes(b"---\n" + front + b"\n---\n# Mine\n")
    assert assistant_for(folder) is None


@pytest.mark.parametrize("size", SIZES)
def test_folder_by_its_sizes(tmp_path, size):
    hidden_size, layers = SIZES[size]
    text = {"hidden_size": hidden_size, "num_hidden_layers": layers}
    expected = f"google/gemma-4-{size}-it-assistant"
    assert assistant_for(target(tmp_path / "full", {"text_config": text})) == expected
    assert assistant_for(target(tmp_path / "text", text | {"model_type": "gemma4_text"})) == expected
    assert assistant_for(target(tmp_path / "base", {"text_config": text}, template=None)) is None
    assert assistant_for(target(tmp_path / "other", {"text_config": text | {"hidden_size": 7}})) is None
    assert assistant_for(target(tmp_path / "llama", text | {"model_type": "llama"})) is None


def test_repo_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--someone--mine"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    folder = target(repo / "snapshots" / commit)
    assert assistant_for("someone/mine") is None
    (folder / "README.md").write_text("---\nbase_model: google/gemma-4-31B-it\n---\n")
    assert assistant_for("someone/mine") == "google/gemma-4-31B-it-assistant"
    assert assistant_for("someone/other") is None


def test_folder_without_config(tmp_path):
    with pytest.raises(InputError, match=r"has no config.json"):
        assistant_for(tmp_path)
