"""The first usage example of transformers' page on Gemma 4 Assistant, with another import line.

    python examples/pipeline_with_assistant.py [MODEL ASSISTANT [IMAGE]]

Paths or names of other checkpoints and another picture may be given.
"""

import sys

from mlx_gemma4_assist.huggingface import pipeline

MODEL, ASSISTANT, IMAGE = (
    sys.argv[1:]
    + [
        "google/gemma-4-E2B-it",
        "google/gemma-4-E2B-it-assistant",
        "https://huggingface.co/datasets/huggingface/documentation-images/resolve/main/pipeline-cat-chonk.jpeg",
    ][len(sys.argv) - 1 :]
)

pipeline = pipeline(
    task="image-text-to-text",
    model=MODEL,
    assistant_model=ASSISTANT,
)
print(
    pipeline(
        images=IMAGE,
        text="<|image|>\n\nWhat is shown in this image?",
    )
)
