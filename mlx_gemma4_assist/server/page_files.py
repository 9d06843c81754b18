"""The files of the chat page, read once: nothing that a client asks for is ever opened."""

import hashlib
import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

FOLDER = "page"
INDEX = "index.html"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing from elsewhere, no scripts or styles within the page, and no page around it."""

HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
_SOURCES = (".py", ".pyc", ".md")


@dataclass(frozen=True)
class PageFile:
    """A file as it is sent.

    Attributes:
        content: its bytes.
        kind: the type of its content.
        tag: that names this content, for browsers that have it already.
    """

    content: bytes
    kind: str
    tag: str


def page_files(folder: Traversable | None = None) -> Mapping[str, PageFile]:
    """The page's files by the paths under which they are served: the index at ``/``, others below ``/page/``.

    Args:
        folder: the package's own if not given; none of either are no files.
    """
    folder = files(__package__) / FOLDER if folder is None else folder
    found = {f"/{FOLDER}{path}": _file(path, each.read_bytes()) for path, each in _below(folder, "/")}
    index = found.pop(f"/{FOLDER}/{INDEX}", None)
    return {**found, **({"/": index, f"/{INDEX}": index} if index is not None else {})}


def _below(folder: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    if not folder.is_dir():
        return
    for each in folder.iterdir():
        if each.name.startswith((".", "_")) or each.name.endswith(_SOURCES):
            continue
        if each.is_dir():
            yield from _below(each, f"{path}{each.name}/")
        else:
            yield f"{path}{each.name}", each


def _file(path: str, content: bytes) -> PageFile:
    suffix = f".{path.rpartition('.')[2]}"
    kind = _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
    text = kind.startswith("text/") or suffix in (".json", ".svg", ".webmanifest")
    tag = hashlib.sha256(content).hexdigest()[:20]
    return PageFile(content, f"{kind}; charset=utf-8" if text else kind, f'"{tag}"')
