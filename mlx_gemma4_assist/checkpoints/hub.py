"""From what the user names (an alias, a folder, a repo on the Hub) to a folder on disk."""

import os
import re
from importlib import resources
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..environment import endpoint_complaint
from ..errors import InputError, first_line
from .hub_errors import failure, refusal
from .weights import weight_files

EMBEDDED = ("tiny", "tiny-assistant")
"""Aliases of the trained pair that comes with the package."""

NEEDED_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template*",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "README.md",  # names the base model, from which the matching assistant follows
)
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHORT_HOST = "hf.co"
_PAGES = ("tree", "blob", "resolve", "raw", "commit", "commits")
"""The kinds of a repo's pages whose address has a revision next."""


class Repo(NamedTuple):
    """A repo on the Hub, and the revision of it that an address names."""

    name: str
    revision: str | None = None


def repo_of(name: str) -> Repo | None:
    """The repo that a name can mean: an id, with or without a slash at its end, or the address of one of its pages.

    None for anything else. Whether the repo exists is not asked.
    """
    path = _path_of_page(name.strip())
    parts = [unquote(part) for part in (name if path is None else path).rstrip("/").split("/")]
    repo, page = "/".join(parts[:2]), parts[2:]
    if not REPO_ID.fullmatch(repo) or (path is None and page):
        return None
    return Repo(repo, page[1] if len(page) > 1 and page[0] in _PAGES else None)


def _path_of_page(name: str) -> str | None:
    """What follows the host in an address of the Hub's, without its query; None for what is no such address."""
    try:
        hosts = {urlsplit(endpoint).hostname for endpoint in (constants._HF_DEFAULT_ENDPOINT, constants.ENDPOINT)}
        hosts |= {_SHORT_HOST}
        address = urlsplit(name if "://" in name else f"https://{name}")
        known = address.scheme in ("http", "https") and address.hostname in hosts
    except ValueError:  # a port or an IPv6 address that is none
        return None
    return address.path.lstrip("/") if known else None


def cached_repo(folder: Path) -> str | None:
    """The repo that a folder of the Hub's cache, models--ORGANISATION--NAME/snapshots/COMMIT, is a download of."""
    if folder.parent.name != "snapshots" or not folder.parent.parent.name.startswith("models--"):
        return None
    return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)


def folder_in_cache(repo: Repo) -> Path | None:
    """The folder of a repo in the Hub's cache, whole or not; None if its config.json is not there. Asks no network."""
    found = try_to_load_from_cache(repo.name, "config.json", revision=repo.revision)
    return Path(found).parent if isinstance(found, str) else None


def public_name(path_or_repo: str | os.PathLike[str]) -> str:
    """What others may call a checkpoint: its alias or repo; of a folder only the last name, not where it lies."""
    name = os.fspath(path_or_repo)
    folder, repo = Path(name).expanduser(), repo_of(name)
    if name in EMBEDDED or (repo is not None and not folder.is_dir()):
        return name if repo is None else repo.name
    folder = folder.absolute()
    return cached_repo(folder) or folder.resolve().name or "a local folder"


def name_of(path_or_repo: object) -> str:
    """The text of what names a checkpoint.

    Raises:
        InputError: it is no text and no path.
    """
    if isinstance(path_or_repo, str | os.PathLike) and isinstance(name := os.fspath(path_or_repo), str):
        return name
    none = " (assistant_for gives None where it knows no assistant)" if path_or_repo is None else ""
    raise InputError(f"{path_or_repo!r:.100} names no model, expected a folder or organisation/name{none}")


def resolve(path_or_repo: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """The folder that holds a checkpoint, downloaded first if it is a repo on the Hub.

    Looked for in this order: the aliases ``tiny`` and ``tiny-assistant`` (the pair that comes with the package), an
    existing folder, a repo id ``organisation/name`` or the address of a page of one. Downloads show progress bars, go
    to the Hub's cache, and respect ``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and a stored login;
    of a repo only the files that loading needs are fetched. A repo that is whole in the cache is had also where the Hub
    refuses, fails, or cannot be reached.

    Args:
        revision: a branch, tag or commit of the repo, before the one that an address names; meaningless, hence an
            error, for a folder or an alias.

    Raises:
        InputError: nothing is there by that name, or it cannot be had: one sentence that says why.
    """
    name = name_of(path_or_repo)
    local = _local_folder(name)
    if local is None:
        repo = repo_of(name)
        if repo is None:
            raise InputError(f"no folder {name!r}; a repo on the Hub is written organisation/name")
        return _download(repo.name, repo.revision if revision is None else revision)
    if revision is not None:
        raise InputError(f"revision {revision!r} was given, but {name} is a folder, not a repo on the Hub")
    return local


def _local_folder(name: str) -> Path | None:
    """The folder by that name; None if it can only be a repo."""
    if name in EMBEDDED:
        folder = Path(str(resources.files("mlx_gemma4_assist") / "assets" / name))
        if not folder.is_dir():
            raise InputError(f"this installation lacks the embedded model {name!r}; install the package again")
        return folder
    try:
        path = Path(name).expanduser()
        if name and path.is_dir():  # an empty name would be the current folder
            return path
        is_file = path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long a name, a null character, the home of nobody
        return None
    if is_file:
        raise InputError(f"{name} is a file, expected a folder with config.json and safetensors")
    return None


def _download(repo: str, revision: str | None) -> Path:
    try:
        return _snapshot(repo, revision)
    except Exception as error:  # its HTTP client's, its proxies', its encodings' and JSON's: no common class
        cached = _whole_in_cache(repo, revision)
        if cached is None or isinstance(error, RevisionNotFoundError):
            raise InputError(_why_not(error, repo, revision)) from None
        return cached


def _snapshot(repo: str, revision: str | None, *, local_files_only: bool = False) -> Path:
    return Path(
        snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(NEEDED_FILES),
            ignore_patterns=["*/*"],
            local_files_only=local_files_only,
        )
    )


def _whole_in_cache(repo: str, revision: str | None) -> Path | None:
    """The folder of a repo in the Hub's cache; None if it is not there, or not all of it."""
    try:
        folder = _snapshot(repo, revision, local_files_only=True)
        weight_files(folder)
    except (OSError, ValueError):  # not there, an unreadable cache, no such name; weights that are missing
        return None
    return folder if (folder / "config.json").is_file() else None


def _why_not(error: Exception, repo: str, revision: str | None) -> str:
    """Why a download has failed, in one sentence."""
    at = f"{repo} at revision {revision}" if revision else repo
    if (complaint := endpoint_complaint()) is not None:
        return f"{at} is not complete in the local cache, and {complaint}"
    cause = error.__cause__
    if isinstance(error, LocalEntryNotFoundError):  # of what the Hub said: that the cache does not have it either
        if not isinstance(cause, HfHubHTTPError):
            why = "HF_HUB_OFFLINE is set" if isinstance(cause, OfflineModeIsEnabled) else "the Hub cannot be reached"
            return f"{at} is not complete in the local cache, and {why}"
        error = cause
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: accept its terms on its page on the Hub, then run `hf auth login` or set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}"
    if isinstance(error, RepositoryNotFoundError):
        return f"no folder and no repo on the Hub is named {repo}; if it is private, log in with `hf auth login`"
    if isinstance(error, HFValidationError):
        return f"{repo!r} is not the name of a repo: {first_line(error)}"
    if isinstance(error, HfHubHTTPError):
        return refusal(at, error, {403: "the token has no right to read it"})
    return f"downloading {at} failed: {failure(error)}"
