"""Who answers a chat: a model in this process, behind a thread of its own, or a server."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, OptionError
from ..media.config import MediaOptions
from ..terminal.attached import check_taken
from ..terminal.opening import Opened
from ..terminal.store import Store
from ..text.messages import Kind
from .chat_cache import ConversationFile
from .loading import check_choice, checkpoint_sampling, draft_memory, load_pair, open_checkpoint
from .options import ModelChoice, Said
from .streams import note, noting_to

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.pair import Checkpoint, Pair
    from ..options import GenerationOptions

UNLIMITED = 1 << 30
"""Tokens of an answer that sets no limit: it goes on until the context is full."""


@dataclass(frozen=True)
class Local:
    """A model in this process.

    Attributes:
        choice: the networks.
        said: options of generation that were typed.
        held: what holds the answers, as options.
        system_prompt: goes before the first message.
        thinking: the option that lets the model think first; None if none does.
        shows: kinds of media that go with the first message.
        media: how many soft tokens pictures take.
        learned: whether draft lengths are kept.
        store: whose folder keeps keys and values for later; None writes none.
        file: that keys and values are kept in, if there is one.
        note: takes what a person should know, in the place of standard error; None leaves it there.
    """

    choice: ModelChoice
    said: Said
    held: Mapping[str, Any]
    system_prompt: str | None
    thinking: str | None
    shows: frozenset[Kind]
    media: MediaOptions
    learned: bool
    store: Store | None
    file: ConversationFile | None
    note: Callable[[str], None] | None

    def open(self) -> Opened:
        """The backend; its weights are read by ``Opened.load``, or with the first request.

        Raises:
            InputError: in the words that were typed.
        """
        with self._noting():
            return self._open()

    def _open(self) -> Opened:
        from ..server.service import Service, Settings

        check_choice(self.choice, self.said.over({"temperature": 1.0}))  # what no checkpoint can mend
        sampling = checkpoint_sampling(self.choice.model)
        options = self.said.over({"max_tokens": UNLIMITED, **sampling})
        check_choice(self.choice, self.said.over({"temperature": options.temperature}))
        checkpoint = open_checkpoint(self.choice, options)
        self._check_prompt(checkpoint, options)
        service = Service(
            checkpoint,
            Settings(options=sampling, max_tokens=UNLIMITED, media=self.media),
            load=_tried_once(partial(self._load, checkpoint, options)),
            engine=self._engine(options),
        )
        for kind in self.shows:
            check_taken(service.model, kind)
        typed = {**sampling, **self.said.values, **self.held}

        def close() -> None:
            service.close()
            if self.file is not None:
                self.file.write(service)

        return Opened(service, service.load, close, typed)

    def _load(self, checkpoint: "Checkpoint", options: "GenerationOptions") -> "Pair":
        """The pair, in the engine's thread."""
        with self._noting():
            return load_pair(checkpoint, options)

    def _noting(self) -> AbstractContextManager[None]:
        return nullcontext() if self.note is None else noting_to(self.note)

    def _check_prompt(self, checkpoint: "Checkpoint", options: "GenerationOptions") -> None:
        """Refuse what no message could be answered with: no chat template, or one that knows no thinking; a system
        prompt as long as the context; a grammar that the checkpoint's tokens cannot spell.

        Raises:
            InputError: with the reason.
        """
        from ..engine.request import check_tokens
        from ..text.renderer import Renderer

        if self.thinking is not None and not Renderer(checkpoint.processor).thinks:
            raise OptionError(f"the checkpoint's chat template knows no {{{self.thinking}}}")
        system = [] if self.system_prompt is None else [{"role": "system", "content": self.system_prompt}]
        processor, config = checkpoint.processor, checkpoint.config
        prompt = processor.encode(
            [*system, {"role": "user", "content": "?"}], enable_thinking=self.thinking is not None
        )
        check_tokens(prompt, config)
        if self.held:
            processor.grammar(replace(options, **self.held), prompt, processor.eos_token_ids, config.vocab_size)

    def _engine(self, options: "GenerationOptions") -> "Callable[[Pair], Engine]":
        """What makes the engine, in its thread."""
        from ..cache.quantization import kv_quantization
        from ..engine.engine import Engine
        from ..engine.prefix_options import FOLDER_BYTES, conversation_bytes

        folder = self._folder()
        folder_bytes = FOLDER_BYTES if self.store is None else self.store.cache_bytes

        def engine(pair: "Pair") -> Engine:
            config = pair.target.config
            quantization = kv_quantization(options, config)
            make = partial(
                Engine,
                pair,
                draft_memory(self.learned),
                prefix_cache_bytes=conversation_bytes(config, dtype=pair.dtype, quantization=quantization),
            )
            made = self._keeping(make, folder, folder_bytes)
            if self.file is not None:
                self.file.fill(made, options)
            return made

        return engine

    def _keeping(self, make: "Callable[..., Engine]", folder: Path | None, folder_bytes: int) -> "Engine":
        """An engine that keeps keys and values in a folder; without one where the folder cannot be used."""
        if folder is None:
            return make()
        try:
            return make(prefix_cache_folder=folder, prefix_cache_folder_bytes=folder_bytes)
        except InputError as error:
            with self._noting():
                note(f"Keys and values are not kept: {error}")
            return make()

    def _folder(self) -> Path | None:
        """Where keys and values are kept for later, if they are."""
        if self.store is None:
            return None
        try:
            return self.store.cache_folder
        except InputError as error:
            note(f"Keys and values are not kept: {error}")
            return None


def open_server(url: str, key: str | None, model: str | None, options: Mapping[str, Any]) -> Opened:
    """A server as the backend.

    Raises:
        InputError: nobody answers there, or has no such model.
    """
    from ..server.remote import RemoteBackend

    return Opened(RemoteBackend.open(url, key, model), options=options)


def _tried_once(load: "Callable[[], Pair]") -> "Callable[[], Pair]":
    """What reads a pair; where that fails it is not tried again by the first message, which may have come already."""
    failed: list[InputError] = []

    def tried() -> "Pair":
        if failed:
            raise failed[0]
        try:
            return load()
        except InputError as error:
            failed.append(error)
            raise

    return tried
