"""From what the user names (an alias, a folder, a repo on the Hub) to a folder on disk."""

import os
import re
from importlib import resources
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's, imported there
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import InputError, first_line

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


def resolve(path_or_repo: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """The folder that holds a checkpoint, downloaded first if it is a repo on the Hub.

    Looked for in this order: the aliases ``tiny`` and ``tiny-assistant`` (the pair that comes with the package), an
    existing folder, a repo id ``organisation/name``. Downloads show progress bars, go to the Hub's cache, and respect
    ``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and a stored login; of a repo only the files that
    loading needs are fetched.

    Args:
        revision: a branch, tag or commit of the repo; meaningless, hence an error, for a folder or an alias.

    Raises:
        InputError: nothing is there by that name, or it cannot be had: one sentence that says why.
    """
    name = os.fspath(path_or_repo)
    local = _local_folder(name)
    if local is None:
        return _download(name, revision)
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
    path = Path(name).expanduser()
    if name and path.is_dir():  # an empty name would be the current folder
        return path
    if path.is_file():
        raise InputError(f"{name} is a file, expected a folder with config.json and safetensors")
    if not REPO_ID.fullmatch(name):
        raise InputError(f"no folder {name!r}; a repo on the Hub is written organisation/name")
    return None


def _download(repo: str, revision: str | None) -> Path:
    at = f"{repo} at revision {revision}" if revision else repo
    try:
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=list(NEEDED_FILES), ignore_patterns=["*/*"])
        )
    except GatedRepoError:
        raise InputError(
            f"{repo} is gated: accept its terms on its page on the Hub, then run `hf auth login` or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{repo} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"no folder and no repo on the Hub is named {repo}; if it is private, log in with `hf auth login`"
        ) from None
    except LocalEntryNotFoundError as error:
        offline = isinstance(error.__cause__, OfflineModeIsEnabled)
        why = "HF_HUB_OFFLINE is set" if offline else "the Hub cannot be reached"
        raise InputError(f"{at} is not complete in the local cache, and {why}") from None
    except HFValidationError as error:
        raise InputError(f"{repo!r} is not the name of a repo: {first_line(error)}") from None
    except HfHubHTTPError as error:
        raise InputError(f"the Hub refused {at}: {first_line(error)}") from None
    except (HTTPError, OSError) as error:  # a connection lost half-way; a full disk
        raise InputError(f"downloading {at} failed: {first_line(error)}") from None
