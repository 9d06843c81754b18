"""What conversations with a real server consist of, and what is to come of them."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict

from mlx_gemma4_assist import stream_generate
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.text.channels import Channel
from mlx_gemma4_assist.text.messages import split_media
from support import media
from support.chat_server import MAX_TOKENS, PLEASE, options
from support.exchanges import strict
from support.tap import Said, Tap

QUESTION = "Hello?"
HELLO = [{"role": "user", "content": QUESTION}]
TOO_LONG = [{"role": "user", "content": "long " * 1000}]
CITIES = ("Oslo", "Rome")
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": list(CITIES)}, "now": {"type": "boolean"}},
    "required": ["city", "now"],
    "additionalProperties": False,
}
FUNCTION = {"name": "sky", "description": "Tells what the sky is like.", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
ASKED = [{"role": "user", "content": PLEASE}]
PICTURE = media.encoded(Image.fromarray(media.picture(96, 96)), "PNG")
ENCODED = base64.b64encode(PICTURE).decode()
SHOWN = f"data:image/png;base64,{ENCODED}"
SEEN = [{"role": "user", "content": [{"type": "image", "url": SHOWN}, {"type": "text", "text": QUESTION}]}]


class Sure(BaseModel):
    """What answers are held to."""

    model_config = ConfigDict(extra="forbid")
    answer: Literal["yes", "no"]
    sure: bool


class Served:
    """A server.

    Args:
        folder: of the model.
        port: of the server.

    Attributes:
        tap: between it and clients.
        url: of that.
    """

    def __init__(self, folder: Path, port: int):
        self.tap = Tap(port)
        self.url = f"http://127.0.0.1:{self.tap.port}"
        self._checkpoint = Checkpoint.open(folder, f"{folder}-assistant")
        self._pair = self._checkpoint.load()
        self._known: dict[str, tuple[str, str, str]] = {}

    def alone(self, messages: Sequence[Any], thinking: bool = False, **given: Any) -> tuple[str, str, str]:
        """A thought, an answer, and why it ended."""
        key = json.dumps([messages, thinking, given])
        if key not in self._known:
            self._known[key] = self._generated(messages, thinking, given)
        return self._known[key]

    def _generated(self, messages: Sequence[Any], thinking: bool, given: Mapping[str, Any]) -> tuple[str, str, str]:
        conversation = split_media(messages)
        if conversation.media:
            prompt = self._pair.media.read(conversation, enable_thinking=thinking)
        else:
            prompt = self._pair.processor.encode(conversation.messages, enable_thinking=thinking)
        settings = {"max_tokens": MAX_TOKENS} | options(self._checkpoint.processor) | dict(given)
        found = list(stream_generate(self._pair.target, self._pair.processor, prompt, self._pair.assistant, **settings))
        said = {channel: "".join(each.text for each in found if each.channel is channel) for channel in Channel}
        return said[Channel.THOUGHT], said[Channel.ANSWER], found[-1].finish_reason

    def heard(self) -> list[Said]:
        """What was said since this was last asked."""
        return self.tap.said()

    def check(self, whole: Any, piece: Any, extensions: frozenset[str] = frozenset()) -> None:
        """All answers since this was last asked that are no refusals are of a client's types."""
        answers = [answer for answer in self.heard() if answer.status == 200]
        assert answers
        for answer in answers:
            kind = whole if answer.kind == "application/json" else piece
            for data in answer.data:
                if data not in ("[DONE]", {"type": "ping"}):
                    strict(kind, data, extensions)


def assert_called(arguments: Any) -> None:
    assert arguments["city"] in CITIES
    assert isinstance(arguments["now"], bool)
    assert arguments.keys() == {"city", "now"}
