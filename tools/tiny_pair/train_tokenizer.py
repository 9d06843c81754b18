"""A byte-fallback BPE tokenizer in the manner of Gemma's, trained on the training text alone.

python train_tokenizer.py --work work --out target
"""

import argparse
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

from data import load
from folders import CORPUS

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>")
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
# Letters, digits and signs never share a token, and a line break never joins a word: a chat turn's text is then
# tokenized alike whatever stands around it.
WORDS = Regex(r"▁?\p{L}+|▁?\p{N}|▁?[^▁\p{L}\p{N}\n]+|\n+|▁+")

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{- '<|turn>' + role + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] | trim -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{- part['text'] | trim -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|turn>model\\n' -}}{%- endif -%}
"""


def skeleton(model: BPE) -> Tokenizer:
    """Everything but the vocabulary."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(WORDS, "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def train(texts: list[str], size: int) -> Tokenizer:
    """`size` entries in all: special tokens, the 256 bytes, then characters and merges."""
    learner = skeleton(BPE())
    alphabet = ["▁", "\n", *map(chr, range(33, 127))]
    room = size - len(SPECIAL) - len(BYTES)
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=room, initial_alphabet=alphabet))
    learned = json.loads(learner.to_str())["model"]
    words = sorted(learned["vocab"], key=learned["vocab"].get)
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *BYTES, *words])}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = skeleton(BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=CORPUS, default="work")
    parser.add_argument("--out", type=Path, default=Path("target"))
    parser.add_argument("--size", type=int, default=1024)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    novels, held_out = load(arguments.work)
    tokenizer = train([block for novel in novels for block in novel], arguments.size)
    tokenizer.save(str(arguments.out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "padding_side": "left",
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
    }
    (arguments.out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    text = "\n\n".join(block for novel in held_out for block in novel)
    print(f"{tokenizer.get_vocab_size()} entries, {len(text) / len(tokenizer.encode(text)):.2f} characters per token")


if __name__ == "__main__":
    main()
