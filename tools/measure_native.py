"""The C++ engine beside the package: time per round, time to the second token, resident memory. Interleaved, medians.

    native/build.sh work/native python
    python -m mlx_gemma4_assist export --model tiny --out work/tiny.bundle
    python tools/measure_native.py work/native/gemma4 work/tiny.bundle --model tiny --assistant tiny-assistant

Each makes the same text in a process of its own, compiled, with 3 drafts: the same tokens, in the same rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

DRAFTS = "3"
PACKAGE = """
import json, resource, sys, time
from mlx_gemma4_assist import load, load_assistant, stream_generate
model, assistant, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
ids = list(map(int, sys.stdin.readline().split()))
target, processor = load(model)
times, made = [], []
for each in stream_generate(
    target, processor, ids, load_assistant(assistant), max_tokens=tokens, num_assistant_tokens=3, compile=True
):
    times.append(time.perf_counter())
    made.append(each.token)
    print(each.token, end=" ", flush=True)
resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"later": times[-1] - times[1], "resident": resident}), file=sys.stderr)
"""


@dataclass(frozen=True)
class Measured:
    """One process: its tokens, seconds to the second of them and from there to the last, bytes at most."""

    tokens: str
    to_second: float
    later: float
    resident: float


def run(command: list[str], prompt: str) -> Measured:
    """Time a process from its beginning."""
    start = perf_counter()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write(prompt.encode() + b"\n")
        process.stdin.close()
        first = b""
        while len(first.split(b" ")) < 3 and (more := process.stdout.read(1)):
            first += more
        second = perf_counter() - start
        tokens = (first + process.stdout.read()).decode().strip()
        said = json.loads(process.stderr.read().splitlines()[-1])
    later = said["later"] if "later" in said else said["seconds"] - said["to_second"]
    return Measured(tokens, second, later, said["resident"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runner", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--assistant", required=True)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--prompt", default="2 300 301 302 17 25 40 12 99 500 3 7", help="token ids")
    given = parser.parse_args()
    own = [
        str(given.runner),
        str(given.bundle),
        "--drafts",
        DRAFTS,
        "--max-tokens",
        str(given.tokens),
        "--compile",
        "1",
    ]
    package = [sys.executable, "-c", PACKAGE, given.model, given.assistant, str(given.tokens)]
    for command in (own, package):
        run(command, given.prompt)  # kernels are built once
    pairs = [(run(own, given.prompt), run(package, given.prompt)) for _ in range(given.times)]
    assert len({each.tokens for pair in pairs for each in pair}) == 1, "the texts differ"
    for name in ("later", "to_second", "resident"):
        one, other = ([vars(pair[side])[name] for pair in pairs] for side in (0, 1))
        ratios = [a / b for a, b in zip(one, other, strict=True)]
        print(
            f"{name}: C++ {statistics.median(one):.4g}, package {statistics.median(other):.4g}, "
            f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
