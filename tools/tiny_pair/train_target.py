"""Train the target: Gemma 4's E2B architecture in miniature, on novels and chats made from them.

python train_target.py --work work --out target --minutes 42
"""

import argparse

from arguments import parse
from folders import TOKENIZER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=TOKENIZER, default="target")
    parser.add_argument("--minutes", type=float, default=42)
    arguments = parse(parser)

    from target_training import train_target  # PyTorch is there

    train_target(arguments)


if __name__ == "__main__":
    main()
