"""How a tokenizer spells media: one placeholder for each soft token, between a beginning and an end."""

import re
from collections.abc import Callable, Iterable
from itertools import islice

from ..errors import InputError
from ..text.messages import Kind, Media
from ..text.processor import Processor
from .prepared import Picture, Placed, Sound

# As Gemma 4's tokenizer spells them, for checkpoints whose tokenizer_config.json does not say.
SPELLING = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "video_token": "<|video|>",
}
# The names of what stands around placeholders.
_AROUND = {
    Kind.PICTURE: ("boi_token", "eoi_token"),
    Kind.VIDEO: ("boi_token", "eoi_token"),
    Kind.SOUND: ("boa_token", "eoa_token"),
}


class Placeholders:
    """The placeholders of a tokenizer.

    Attributes:
        spelled: each kind's placeholder.
        ids: its token id; None if the vocabulary has none.
    """

    def __init__(self, text: Processor):
        named = text.tokenizer.special_tokens_map
        spelling = {name: str(named.get(name, usual)) for name, usual in SPELLING.items()}
        self.spelled = {kind: spelling[f"{kind}_token"] for kind in Kind}
        self.ids = {kind: text.tokenizer.backend_tokenizer.token_to_id(self.spelled[kind]) for kind in Kind}
        self._around = {kind: (spelling[begin], spelling[end]) for kind, (begin, end) in _AROUND.items()}

    def check(self, text: str, media: Media) -> None:
        """Refuse text that has not one placeholder for each source.

        Raises:
            InputError: it has more or fewer.
        """
        for kind, sources in media.by_kind.items():
            count = text.count(self.spelled[kind])
            if self.ids[kind] is not None and count != len(sources):
                times, plural = "" if count == 1 else "s", "" if len(sources) == 1 else "s"
                raise InputError(
                    f"the prompt says {self.spelled[kind]} {count} time{times}, "
                    f"but has {len(sources)} {kind.noun}{plural}"
                )

    def write(self, kind: Kind, soft_tokens: int) -> str:
        """What stands for a picture, a frame or a sound."""
        begin, end = self._around[kind]
        return f"{begin}{self.spelled[kind] * soft_tokens}{end}"

    def replace(self, text: str, kinds: Iterable[Kind], written: Callable[[Kind], str]) -> str:
        """The text with each placeholder of some kinds replaced, one after the other, by what ``written`` returns.

        In one pass, because what is written has placeholders, too.
        """
        found = {self.spelled[kind]: kind for kind in kinds}
        if not found:
            return text
        return re.sub("|".join(map(re.escape, found)), lambda match: written(found[match.group()]), text)

    def locate(self, tokens: list[int], contents: Iterable[tuple[Kind, Picture | Sound]]) -> tuple[Placed, ...]:
        """Where the soft tokens of each content go; their placeholders follow one another as the contents do.

        Raises:
            InputError: the tokenizer has made something else of what ``write`` returned.
        """
        ids = set(self.ids.values())
        positions = (position for position, token in enumerate(tokens) if token in ids)
        placed = []
        for kind, content in contents:
            own = list(islice(positions, content.soft_tokens))
            if [tokens[position] for position in own] != [self.ids[kind]] * content.soft_tokens:
                raise InputError(f"the checkpoint's tokenizer does not take {self.spelled[kind]} for one token")
            placed.append(Placed(kind, own[0], content))
        return tuple(placed)
