"""What the fuzzers do to files: values of JSON swapped, bytes cut off or changed, and what was done, in words."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 7, 96, -(2**31), 2**31 - 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e-308, 1e308,
    float("nan"), float("inf"), -float("inf"), "", "x", "0", "é\x00", [], [[]], [None], [1, 2], ["x"], [{}],
    {}, {"x": 1}, {"": None}, {"0": {}}, {"0": {"head_dim": "x"}}, "full_attention", "float16", "vision",
)  # fmt: skip
DEPTH = 200_000
BYTES = (0, 255, 34, 48, 57, 91)
MARK = b"\xef\xbb\xbf"


def place(rng: random.Random, value: Any) -> tuple[Any, ...]:
    """Where a JSON value is changed: the keys and indices that lead there; none for all of it."""
    path: list[Any] = []
    while isinstance(value, dict | list) and value and (not path or rng.random() < 0.8):
        path.append(rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value)))
        value = value[path[-1]]
    return tuple(path)


def _inside(content: Any, path: Sequence[Any]) -> Any:
    for key in path:
        content = content[key]
    return content


def _replaced(content: Any, path: Sequence[Any], what: Any) -> Any:
    """The content with something else at a path."""
    if not path:
        return what
    _inside(content, path[:-1])[path[-1]] = what
    return content


def _nested(rng: random.Random) -> str:
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    depth = DEPTH if rng.random() < 0.5 else 50
    return opening * depth + "1" + closing * depth


def change(rng: random.Random, content: Any, added: Sequence[str]) -> tuple[str, str]:
    """A JSON value with a part of it swapped or left out, or another part of one of these names, and what was done."""
    kind = rng.choice(("swapped", "swapped", "swapped", "missing", "nested", "added"))
    path, what = place(rng, content), rng.choice(ODD)
    if kind == "added":
        objects = [(), *((key,) for key, part in content.items() if isinstance(part, dict))]
        path = (*rng.choice(objects), rng.choice(added))
    if kind == "missing" and path:
        del _inside(content, path[:-1])[path[-1]]
    else:
        content = _replaced(content, path, "NESTED" if kind == "nested" else what)
    text = json.dumps(content).replace('"NESTED"', _nested(rng))
    return text, f"{kind} {'.'.join(map(str, path)) or 'all'} {what!r:.40}"


def damage_json(rng: random.Random, file: Path, added: Sequence[str]) -> str:
    """Change one value of a JSON file; ``added`` are names that whoever reads it knows."""
    text, what = change(rng, json.loads(file.read_text()), added)
    file.write_text(text)
    return f"{file.name} {what}"


def damage_bytes(rng: random.Random, file: Path, head: int = 10**9) -> str:
    """Cut a file off, or change bytes of it, mostly within its first ``head`` ones."""
    content, what = broken(rng, file.read_bytes(), head)
    file.write_bytes(content)
    return f"{file.name} {what}"


def broken(rng: random.Random, whole: bytes, head: int = 10**9) -> tuple[bytes, str]:
    """Bytes cut off or changed, mostly within the first ``head`` ones, and what was done."""
    content = bytearray(whole)
    end = len(content) if rng.random() < 0.2 else min(head, len(content))
    if not end or rng.random() < 0.3:
        del content[rng.randrange(end + 1) :]
        return bytes(content), f"cut to {len(content)}"
    for _ in range(rng.choice((1, 1, 2, 8))):
        content[rng.randrange(end)] = rng.choice((*BYTES, rng.randrange(256)))
    return bytes(content), "flipped"


def damage_header(rng: random.Random, file: Path) -> str:
    """Change one value of the JSON in a safetensors file's header; its length stays right."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    path = place(rng, header)
    what = rng.choice((*ODD, "F16", "BF16", "I32", "U8", "F64", "F8_E4M3"))
    text = json.dumps(_replaced(header, path, what)).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return f"{file.name} header {'.'.join(map(str, path)) or 'all'} {what!r:.40}"
