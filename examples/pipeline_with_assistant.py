"""The first usage example of transformers' page on Gemma 4 Assistant, with another import line."""

import argparse
import sys

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.huggingface import pipeline

PICTURE = "https://huggingface.co/datasets/huggingface/documentation-images/resolve/main/pipeline-cat-chonk.jpeg"

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", nargs="?", default="google/gemma-4-E2B-it", help="a folder or a repo on the Hub")
parser.add_argument("assistant", nargs="?", default="google/gemma-4-E2B-it-assistant", help="its drafter")
parser.add_argument("image", nargs="?", default=PICTURE, help="a path or URL")
chosen = parser.parse_args()

try:
    pipeline = pipeline(
        task="image-text-to-text",
        model=chosen.model,
        assistant_model=chosen.assistant,
    )
    print(
        pipeline(
            images=chosen.image,
            text="<|image|>\n\nWhat is shown in this image?",
        )
    )
except InputError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
