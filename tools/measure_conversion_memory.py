"""How much memory a conversion takes: a random checkpoint of at least 4 GB, converted in a process of its own.

    python tools/measure_conversion_memory.py

It needs 7 GB of disk, which are given back, and prints the peak of resident memory, as the operating system counts it.
The checkpoint is shaped as E2B with all widths scaled; its largest tensor is the table of per-layer inputs.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from synthetic import configs

from mlx_gemma4_assist.conversion.tensors import Output, Step
from mlx_gemma4_assist.conversion.writing import write_shards
from mlx_gemma4_assist.models.config import read_target_config
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM

BLOCK = 1 << 22  # elements
CONVERT = (sys.executable, "-m", "mlx_gemma4_assist", "convert", "--assistant-model", "none", "--no-check")


@dataclass(frozen=True)
class Random(Step):
    """A tensor of random values, the same block again and again: what they are costs no memory."""

    block: mx.array

    def chunks(self) -> Iterator[tuple[int, Sequence[mx.array]]]:
        rest = prod(self.outputs[0].shape)
        while rest:
            size = min(rest, BLOCK)
            yield 0, (self.block[:size],)
            rest -= size


def write_random(folder: Path, scale: float) -> int:
    """Write a target; returns the bytes of its tensors, all bfloat16."""
    config, _ = configs("e2b", scale)
    block = (mx.random.normal((BLOCK,)) * 0.02).astype(mx.bfloat16)
    mx.eval(block)
    parameters = tree_flatten(Gemma4ForCausalLM(read_target_config(config)).parameters())
    outputs = [Output(f"model.language_{name}", mx.bfloat16, array.shape) for name, array in parameters]
    steps = [Random((), 0, (output,), tuple, block) for output in outputs]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    largest = max(outputs, key=lambda output: prod(output.shape))
    print(f"largest tensor: {largest.name}, {2 * prod(largest.shape) / 1e9:.2f} GB")
    write_shards(folder, steps, 0, 2 * 10**9, lambda read: None)
    return sum(output.nbytes for output in outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.7, help="of E2B's widths")
    parser.add_argument("--out", type=Path, help="a folder to write below; a temporary one unless told")
    parser.add_argument("options", nargs="*", default=["-q"], help="of convert, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.out) as folder:
        source, destination = Path(folder) / "source", Path(folder) / "converted"
        size = write_random(source, args.scale)
        print(f"checkpoint: {size / 1e9:.2f} GB")
        begin = time.perf_counter()
        paths = ("--hf-path", str(source), "--mlx-path", str(destination))
        subprocess.run([*CONVERT, *paths, *args.options], check=True)
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
        print(f"peak of resident memory: {peak / 1e9:.2f} GB, in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
