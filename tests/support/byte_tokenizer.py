"""A tokenizer in the manner of Gemma's: BPE that falls back to bytes, and writes a space as "▁".

Needs neither MLX nor PyTorch.
"""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>")
OF_MEDIA = {  # as tokenizer_config.json names them
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "image_token": "<|image|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "audio_token": "<|audio|>",
}
OF_TEXT = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}


def byte_tokenizer(words: Sequence[str], merges: Sequence[tuple[str, str]], special: Sequence[str]) -> Tokenizer:
    """Ids are: the special tokens, 256 bytes, then the words, among which every merged one has to be."""
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(BPE(vocabulary, list(merges), unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer
