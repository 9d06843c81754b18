"""A converted folder to the Hub; without a token, what would go there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, though not marked so
    filter_repo_objects,
    validate_repo_id,
)

from ..checkpoints.hub import REPO_ID
from ..checkpoints.hub_errors import failure, refusal
from ..environment import endpoint_complaint
from ..errors import InputError, counted, first_line

HIDDEN = (".*", "*/.*")
"""Files and folders that stay here: what editors, systems and the Hub's own library leave behind."""


class File(NamedTuple):
    """One file: its path in the repo, and its size."""

    path: str
    bytes: int


@dataclass(frozen=True)
class Upload:
    """What has gone to the Hub, or would.

    Attributes:
        repo_id: where to.
        files: in the order of their paths.
        url: of the repo; None for a dry run.
    """

    repo_id: str
    files: tuple[File, ...]
    url: str | None

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def describe(self) -> str:
        """The files and their sizes as lines to print."""
        width = max(len(f"{self.bytes:,}"), 1)
        lines = [f"{file.bytes:>{width},}  {file.path}" for file in self.files]
        what = "would be uploaded" if self.url is None else "uploaded"
        return "\n".join(
            [*lines, f"{self.bytes:,} bytes in {counted(len(self.files), 'file')} {what} to {self.repo_id}"]
        )


def check_repo_id(repo_id: str) -> None:
    """Refuse a name that no repo can have, before a long conversion rather than after it.

    Raises:
        InputError: it is not written organisation/name, or has characters that the Hub does not allow.
    """
    if not REPO_ID.fullmatch(repo_id):
        raise InputError(f"{repo_id!r} is not the name of a repo, which is written organisation/name")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is not the name of a repo: {first_line(error)}") from None


def files_to_upload(folder: Path) -> tuple[File, ...]:
    """The files of a converted folder, hidden ones left out.

    Raises:
        InputError: no such folder, or no model in it.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json: there is no model to upload")
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    kept = filter_repo_objects(paths, ignore_patterns=list(HIDDEN))
    return tuple(File(path, (folder / path).stat().st_size) for path in kept)


def upload_folder(
    folder: Path, repo_id: str, *, token: str | None = None, private: bool | None = None, dry_run: bool = False
) -> Upload:
    """Upload a folder to a repo of the Hub, which is created if it is not there yet.

    Large files are sent in pieces; an upload that broke off continues where it was when it is called again.

    Args:
        folder: what ``convert`` wrote.
        repo_id: organisation/name.
        token: with the right to write; None takes the one of the environment or of ``hf auth login``. Without any
            nothing is sent: a dry run.
        private: whether a repo that is created is private; None leaves it to the organisation.
        dry_run: only look what would be sent.

    Raises:
        InputError: a name that is none, no model in the folder, a refused token, no connection: one sentence.
    """
    check_repo_id(repo_id)
    files = files_to_upload(folder)
    if not dry_run and (complaint := endpoint_complaint()) is not None:
        raise InputError(complaint)
    with _in_one_sentence(repo_id):
        if dry_run or (token := token or get_token()) is None:
            return Upload(repo_id, files, None)
        api = HfApi(token=token)
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        # Since huggingface_hub 2 this is the one for large folders too; upload_large_folder is gone.
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            ignore_patterns=list(HIDDEN),
            commit_message="Upload with mlx_gemma4_assist",
        )
    return Upload(repo_id, files, str(url))


@contextmanager
def _in_one_sentence(repo_id: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # its HTTP client's, its encodings' and JSON's too: no common class
        raise InputError(_why_not(error, repo_id)) from None


def _why_not(error: Exception, repo_id: str) -> str:
    """Why an upload has failed, in one sentence."""
    if isinstance(error, OfflineModeIsEnabled):
        return f"cannot upload to {repo_id}: HF_HUB_OFFLINE is set"
    if isinstance(error, HfHubHTTPError):
        no_right = f"the token has no right to write to {repo_id.partition('/')[0]}"
        # A repo that a token may not see does not exist for it.
        return refusal(f"the upload to {repo_id}", error, {403: no_right, 404: no_right})
    # RuntimeError: of its uploader of large files, when a connection is lost half-way.
    why = first_line(error) if isinstance(error, RuntimeError) else failure(error)
    return f"uploading to {repo_id} failed: {why}; what has arrived is not sent again next time"
