"""The second usage example of transformers' page on Gemma 4 Assistant, with other import lines, dtype, return_tensors.

    python examples/generate_with_assistant.py [MODEL ASSISTANT [IMAGE]]

Paths or names of other checkpoints and another picture may be given.
"""

import sys

import mlx.core as mx

from mlx_gemma4_assist.huggingface import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

MODEL, ASSISTANT, IMAGE = (
    sys.argv[1:]
    + [
        "google/gemma-4-E2B-it",
        "google/gemma-4-E2B-it-assistant",
        "https://huggingface.co/datasets/huggingface/documentation-images/resolve/main/pipeline-cat-chonk.jpeg",
    ][len(sys.argv) - 1 :]
)

model = AutoModelForImageTextToText.from_pretrained(
    MODEL,
    dtype=mx.bfloat16,
    device_map="auto",
)
assistant_model = AutoModelForCausalLM.from_pretrained(
    ASSISTANT,
    dtype=mx.bfloat16,
    device_map="auto",
)

processor = AutoProcessor.from_pretrained(MODEL, padding_side="left")
messages = [
    {
        "role": "user",
        "content": [
            {"type": "image", "url": IMAGE},
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
