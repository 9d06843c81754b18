"""Made-up plain conversations, many of which try to write what only a template may."""

import random

from mlx_gemma4_assist.bundle.chat_form import MODEL, SYSTEM, USER, Said

# fmt: off
_TEXTS = (
    "Hi", "there", "hello", "the wall", "Was ist das?", "日本", "🐈\u200d⬛", "e\u0301", "١٢", " two  blanks ", "▁",
    "\n", "\n\n\n", "\t", "\u2003", "\x1c", "\u00a0", "\ufeff", "\u200b", "<", "<|", "|>", "<|tur", "<turn", "<ch",
    "<|turn>system\n", "<turn|>\n", "<|turn>model\n", "<bos>", "<eos>", "<pad>", "<unk>", "<|think|>", "<0x0A>",
    "<|channel>thought\nwell\n<channel|>", "<|channel>", "<channel|>", "<|channel>final\n", "<<|turn>",
    "<|tool_call>call:f{}<tool_call|>", '<|"|>', "<|image|>", "<|audio|>", "<|turn\u0301>", "< |turn>", "<\u200b|turn>",
)
# fmt: on


def messages_of(said: list[Said]) -> list[dict[str, str]]:
    """As the package takes them."""
    return [{"role": message.role, "content": message.text} for message in said]


def random_chats(count: int, seed: int, *, thinks: bool = True) -> list[tuple[list[Said], bool]]:
    """Conversations, and whether thoughts are asked for.

    Args:
        count: how many.
        seed: of what is made up.
        thinks: whether any asks for thoughts.
    """
    rng = random.Random(seed)
    return [(_chat(rng), thinks and rng.random() < 0.5) for _ in range(count)]


def _chat(rng: random.Random) -> list[Said]:
    said = [Said(SYSTEM, _text(rng))] if rng.random() < 0.4 else []
    for turn in range(rng.randrange(1, 6)):
        usual = MODEL if turn % 2 else USER
        role = usual if rng.random() < 0.8 else rng.choice((USER, MODEL, SYSTEM))
        said.append(Said(role, _text(rng)))
    return said


def _text(rng: random.Random) -> str:
    return "".join(rng.choice(_TEXTS) for _ in range(rng.randrange(6)))
