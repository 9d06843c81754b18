"""The second usage example of transformers' page on Gemma 4 Assistant: other imports, dtype, return_tensors."""

import argparse
import sys

import mlx.core as mx

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.huggingface import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

PICTURE = "https://huggingface.co/datasets/huggingface/documentation-images/resolve/main/pipeline-cat-chonk.jpeg"

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", nargs="?", default="google/gemma-4-E2B-it", help="a folder or a repo on the Hub")
parser.add_argument("assistant", nargs="?", default="google/gemma-4-E2B-it-assistant", help="its drafter")
parser.add_argument("image", nargs="?", default=PICTURE, help="a path or URL")
chosen = parser.parse_args()

try:
    model = AutoModelForImageTextToText.from_pretrained(
        chosen.model,
        dtype=mx.bfloat16,
        device_map="auto",
    )
    assistant_model = AutoModelForCausalLM.from_pretrained(
        chosen.assistant,
        dtype=mx.bfloat16,
        device_map="auto",
    )

    processor = AutoProcessor.from_pretrained(chosen.model, padding_side="left")
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "url": chosen.image},
                {"type": "text", "text": "What is shown in this image?"},
            ],
        },
    ]
    inputs = processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        return_tensors="mlx",
        add_generation_prompt=True,
    ).to(model.device)
    input_len = inputs["input_ids"].shape[-1]

    output = model.generate(**inputs, max_new_tokens=50, assistant_model=assistant_model)
    print(processor.decode(output[0][input_len:], skip_special_tokens=True))
except InputError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
