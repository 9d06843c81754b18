"""What the commands of both trainings share: they read their arguments before PyTorch is looked for."""

import argparse

from folders import CORPUS


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, those of every training among them; PyTorch is set up for it.

    Without PyTorch it ends the program with one line.
    """
    parser.add_argument("--work", type=CORPUS, default="work")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        parser.error("training needs PyTorch: pip install -r tools/tiny_pair/requirements.txt")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return arguments
