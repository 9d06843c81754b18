"""Distil the assistant from the target, over the recurrence that drafting runs.

python train_assistant.py --work work --target target --out assistant --minutes 18
"""

import argparse
from pathlib import Path

from arguments import parse
from folders import TRAINED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=TRAINED, default="target")
    parser.add_argument("--out", type=Path, default=Path("assistant"))
    parser.add_argument("--minutes", type=float, default=18, help="in all, the target's own text included")
    parser.add_argument("--text-minutes", type=float, default=3, help="of these, to generate that text")
    arguments = parse(parser)

    from assistant_training import train_assistant  # PyTorch is there

    train_assistant(arguments)


if __name__ == "__main__":
    main()
