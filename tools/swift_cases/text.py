"""What Swift's tokenizer, chat format and channels are compared with: tools/swift_cases/text.py FOLDER.

Writes FOLDER/text/NAME/tokenizer.json for tokenizers of several kinds, and what Hugging Face's tokenizers and this
package make of random texts, token ids and conversations, the same ones for the same seed.
"""

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

from support import media
from support.byte_tokenizer import SPECIAL, byte_tokenizer
from support.chat_format import CONTROL, TEMPLATES, THINKS_AT_ONCE, chat_processor
from support.checkpoints import TEMPLATE, save_tokenizer
from support.paths import ROOT
from support.plain_chats import messages_of, random_chats
from support.random_texts import RandomTexts
from synthetic import write_tokenizer
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Split
from tokenizers.trainers import BpeTrainer

from mlx_gemma4_assist import Processor
from mlx_gemma4_assist.bundle.chat_form import chat_form
from mlx_gemma4_assist.text.renderer import Renderer
from mlx_gemma4_assist.text.stops import StopStrings

SEED = 16
TEXTS, FEW_TEXTS = 10_000, 1_000
CHATS = 150
TINY = ROOT / "mlx_gemma4_assist" / "assets" / "tiny"
LARGE = 262_144


def trained(folder: Path, *, across_words: bool) -> None:
    """A tokenizer of real text, with all kinds of added tokens.

    Args:
        folder: where it is written to.
        across_words: whether tokens go on behind spaces, which Gemma's do not; and merges are written as older files
            have them.
    """
    tokenizer = Tokenizer(BPE())
    if not across_words:
        tokenizer.pre_tokenizer = Split("▁", "merged_with_next")
    lines = [line.replace(" ", "▁") for line in corpus().splitlines()]
    tokenizer.train_from_iterator(lines, BpeTrainer(vocab_size=4_000, limit_alphabet=500, show_progress=False))
    learned = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    words = [word for word in sorted(learned["vocab"], key=learned["vocab"].get) if word not in SPECIAL]
    made = byte_tokenizer(words, merges, (*SPECIAL, *CONTROL))
    made.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "\n\n\n", "▁▁", "<table>", "</table>")])
    made.add_tokens([AddedToken(text, normalized=True) for text in ("the model", "quick", "日本")])
    made.add_special_tokens([AddedToken("<late>", normalized=True, special=True)])
    content = json.loads(made.to_str())
    if across_words:
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    write(folder / "tokenizer.json", content)


def corpus() -> str:
    """Prose and code of this repository, and other scripts."""
    files = [TINY / "heldout.txt", *sorted((ROOT / "docs").glob("*.md"))[:8], ROOT / "mlx_gemma4_assist" / "api.py"]
    own = "\n".join(file.read_text(encoding="utf-8") for file in files)
    texts = RandomTexts(SEED + 1, own.split())
    return "\n".join([own[:200_000], *(texts.text() for _ in range(2_000))]).replace("\0", "")


def large(folder: Path) -> None:
    """As many tokens as Gemma's has, and about as many merges, half a million."""
    rng = random.Random(SEED)
    letters = [chr(code) for code in (*range(33, 127), *range(0x4E00, 0x4E00 + 4_000)) if chr(code) != " "]
    words = dict.fromkeys(["▁", *letters])
    known = list(words)
    merges: list[tuple[str, str]] = []
    room = LARGE - len(SPECIAL) - 256
    while len(known) < room:
        places = [min(rng.randrange(len(known)), rng.randrange(len(known))) for _ in range(2)]
        left, right = known[places[0]], known[places[1]].lstrip("▁")
        for word in (left + right[:end] for end in range(1, len(right) + 1)):
            if len(word) <= 14 and word not in words and len(known) < room:
                known.append(word)
                words[word] = None
                merges += [(word[:i], word[i:]) for i in range(1, len(word)) if splits(word, i, words)]
    write(folder / "tokenizer.json", json.loads(byte_tokenizer(known, merges, SPECIAL).to_str()))


def splits(word: str, place: int, words: dict[str, None]) -> bool:
    return word[:place] in words and word[place:] in words


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def tokens_of(tokenizer: Tokenizer, texts: list[str]) -> list[dict[str, Any]]:
    """Their ids, with special tokens that they spell, and without."""
    found = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    tokenizer.encode_special_tokens = True
    plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    tokenizer.encode_special_tokens = False
    every = zip(texts, found, plain, strict=True)
    return [{"text": text, "ids": ids, "plain": None if own == ids else own} for text, ids, own in every]


def texts_of(tokenizer: Tokenizer, count: int) -> list[dict[str, Any]]:
    """What random ids say."""
    rng = random.Random(SEED)
    size = tokenizer.get_vocab_size()
    special = [*tokenizer.get_added_tokens_decoder()]
    letters = [i for i in (tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)) if i is not None]
    kinds = [range(size), special, letters, letters[0xC2:0xE2], letters[0x80:0xC0], range(size, size + 5)]
    made = []
    for _ in range(count):
        ids = [rng.choice(rng.choices(kinds, (6, 1, 3, 2, 4, 1))[0]) for _ in range(rng.randrange(12))]
        ids += tokenizer.encode(rng.choice(("é", "🐈", "日本", "\ud7ff")), add_special_tokens=False).ids
        text, skipped = (tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True))
        made.append({"ids": ids, "text": text, "skipped": skipped})
    return made


def write_tokens(folder: Path, count: int, extra: list[str] | None = None) -> None:
    """Random texts of a tokenizer, and others."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    known = tokenizer.get_vocab()
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    texts = RandomTexts(SEED, [*added, *sorted(known, key=known.__getitem__)[:: len(known) // 200]])
    some = [texts.text() for _ in range(count)]
    content = {"tokens": tokens_of(tokenizer, some + (extra or [])), "texts": texts_of(tokenizer, count // 4)}
    write(folder / "cases.json", content | {"count": tokenizer.get_vocab_size()})


def long_texts() -> list[str]:
    """With and without places where they can be taken apart, and so long that quadratic time would be seen."""
    words = corpus().split()
    rng = random.Random(SEED)
    return [" ".join(rng.choices(words, k=150_000))[:1_000_000], "a" * 300_000, "e" + " e" * 150_000, "\0" * 300_000]


def write_chats(folder: Path, processor: Processor) -> None:
    """Conversations in ids."""
    renderer = Renderer(processor)
    made = []
    form = chat_form(processor)
    assert form is not None
    for said, thinking in random_chats(CHATS, SEED, thinks="thinking" in form):
        messages = [{"role": message.role.replace("assistant", "model"), "content": message.text} for message in said]
        ids = processor.tokenize(renderer.render(messages_of(said), thinking=thinking).text)
        made.append({"messages": messages, "thinking": thinking, "ids": ids})
    markers = {name: value for name, value in vars(processor.markers).items() if value is not None}
    stops = sorted(processor.eos_token_ids)
    content = {"chat": form, "markers": markers, "stops": stops, "chats": made, "turns": turns(processor, made)}
    write(folder / "chats.json", content)


def turns(processor: Processor, chats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The model's turns behind conversations, by channel."""
    rng = random.Random(SEED)
    markers = processor.markers
    switches = [i for i in (markers.open, markers.close) if i is not None]
    spelled = ("thought\n", "thought\n\n", "thought", "\n", "final\n", "Hello é🐈", "though", "<bos>")
    parts = [processor.tokenize(text) for text in spelled]
    parts += [[switch, *part] for switch in switches for part in ([], *parts)]
    calls = (markers.call, markers.end_of_call)
    known = [i for i in range(processor.tokenizer.backend_tokenizer.get_vocab_size()) if i not in calls]
    made = []
    for chat in chats:
        some = [rng.choice([*parts, rng.sample(known, 3)]) for _ in range(rng.randrange(8))]
        ids = [token for part in some for token in part]
        text = processor.turn(chat["ids"], StopStrings(()))
        pieces = [*(text.add(token) for token in ids), text.finish()]
        made.append({"prompt": chat["ids"], "ids": ids, "pieces": [list(piece) for piece in pieces if piece.text]})
    return made


def main() -> None:
    out = Path(sys.argv[1]) / "text"
    (out / "tiny").mkdir(parents=True, exist_ok=True)
    shutil.copy(TINY / "tokenizer.json", out / "tiny")
    save_tokenizer(out / "words", template=TEMPLATE)
    media.save_tokenizer(out / "media")
    (out / "bytes").mkdir(exist_ok=True)
    write_tokenizer(out / "bytes")
    trained(out / "trained", across_words=False)
    trained(out / "across", across_words=True)
    large(out / "large")
    bmp = "".join(chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000)
    for name, count in (("trained", TEXTS), ("tiny", TEXTS), ("across", TEXTS // 4), ("large", FEW_TEXTS)):
        write_tokens(out / name, count, [bmp])
    for name in ("words", "media", "bytes"):
        write_tokens(out / name, FEW_TEXTS)
    for name in ("large", "across"):
        write(
            out / name / "long.json", tokens_of(Tokenizer.from_file(str(out / name / "tokenizer.json")), long_texts())
        )
    for name, template in (*TEMPLATES.items(), ("at-once", THINKS_AT_ONCE)):
        write_chats(out / name, chat_processor(out / name, template))
    for name, folder in (("tiny", TINY), ("words", out / "words")):
        write_chats(out / name, Processor.from_pretrained(folder))


if __name__ == "__main__":
    main()
