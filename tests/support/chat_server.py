"""A real server, as a process, of a model that can do all that Gemma 4 can, badly: its weights are random.

``python -m support.chat_server FOLDER`` serves what ``write_model`` has written, and says where; ``tiny`` for a folder
serves the embedded pair, whose drafts are accepted, as one that ends no answer by itself.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.options import GenerationOptions
from mlx_gemma4_assist.server.delivery import Submitted
from mlx_gemma4_assist.server.endpoint import Request
from mlx_gemma4_assist.server.exchange import ChatRequest, Event, ToolChoice
from mlx_gemma4_assist.server.run import bind, serve
from mlx_gemma4_assist.server.service import Service, Settings
from mlx_gemma4_assist.server.settings import ServerSettings
from mlx_gemma4_assist.server.turns import stop_tokens
from mlx_gemma4_assist.text.processor import Processor
from support import media
from support.byte_tokenizer import OF_TEXT, byte_tokenizer
from support.chat_format import CONTROL, THINKS_AT_ONCE
from support.multimodal import VOCABULARY, write_pair
from support.paths import ROOT, TESTS

NAME = "someone/gemma-4-random"
CONTEXT = 2048
MAX_TOKENS = 40
EMBEDDED, DRAFTS = "tiny", 3
SPECIAL = (*media.SPECIAL, *(each for each in CONTROL if each not in media.SPECIAL))
PLEASE = "Call the tool!"
LIKELY = {"<channel|>": 4.0, '<|"|>': 4.0, '"': 3.0, "}": 5.0, "<turn|>": 1.0}
"""So that thoughts, strings and objects end."""


def write_model(folder: Path) -> Path:
    """A pair that takes pictures, with Gemma 4's control tokens and a template that knows thoughts and tools."""
    write_pair(folder)
    letters = [chr(code) for code in range(33, 127)]
    tokenizer = byte_tokenizer(["▁", "\n", *letters], [], SPECIAL)
    assert tokenizer.get_vocab_size() <= VOCABULARY
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text()) | OF_TEXT
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(THINKS_AT_ONCE)
    return folder


def options(processor: Processor) -> dict[str, Any]:
    """How it answers where a request does not say: drawn, the same each time. It calls nothing unless it must."""
    never = dict.fromkeys(SPECIAL, -99.0)
    biases = {processor.tokenize(text)[0]: bias for text, bias in (never | LIKELY).items()}
    return {"temperature": 1.0, "seed": 5, "num_assistant_tokens": 2, "logit_bias": biases}


class Obliging(Service):
    """Calls a tool where it may and its user asks for it, as a model does that has learned to."""

    def submit(self, request: Request, listener: Callable[[Event], None]) -> Submitted:
        """As of ``Service``."""
        may_call = isinstance(request, ChatRequest) and request.tools and request.tool_choice is ToolChoice.AUTO
        if may_call and request.messages[-1]["content"] == PLEASE:
            request = replace(request, tool_choice=ToolChoice.REQUIRED, parallel_tool_calls=False)
        return super().submit(request, listener)


@contextmanager
def serving(folder: Path | str) -> Iterator[int]:
    """The port of a server, which has ended well behind it."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"}
    command = [sys.executable, "-m", __name__, str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    assert process.returncode == 0


def service_of(folder: str) -> Service:
    """What answers, its model not loaded yet."""
    if folder == EMBEDDED:
        checkpoint = Checkpoint.open(folder)
        never = dict.fromkeys(stop_tokens(checkpoint, GenerationOptions()), -99.0)
        return Service(
            checkpoint, Settings(options={"num_assistant_tokens": DRAFTS, "logit_bias": never}, max_tokens=MAX_TOKENS)
        )
    checkpoint = Checkpoint.open(folder, f"{folder}-assistant")
    answering = options(checkpoint.processor)
    return Obliging(checkpoint, Settings(name=NAME, options=answering, max_tokens=MAX_TOKENS, context=CONTEXT))


def main() -> None:
    service = service_of(sys.argv[1])
    settings = ServerSettings(port=0, log_level="warning")
    listening = bind(settings)
    try:
        service.load()
        serve(service, settings, listening, started=lambda _: print(listening.getsockname()[1], flush=True))
    finally:
        service.close(1.0)


if __name__ == "__main__":
    main()
