"""``serve``: the server, from its options to its end."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import OptionError
from ..options import FILTERS, GenerationOptions
from .interrupts import ending_at_once
from .loading import check_choice, checkpoint_sampling, draft_memory, open_checkpoint
from .options import DRAFTED, DRAWN, EMBEDDED, QUANTIZED, Learned, ModelChoice, Only, Said, grouped
from .serve_options import KEY_VARIABLE, Address, Keeping, Limits, Prompts, Telling
from .streams import note

if TYPE_CHECKING:
    from ..engine.pair import Checkpoint
    from ..integrations.launchd import Agent
    from ..server.settings import ServerSettings

OF_CHECKPOINT = "Where a request does not say; without it as in the checkpoint's generation_config.json."
UNSAID = {"max_tokens": "Where a request does not say; without it 4,096."} | dict.fromkeys(FILTERS, OF_CHECKPOINT)
DRAWN_UNSEEDED = tuple(name for name in DRAWN if name != "seed")
WHO_ANSWERS = "The embedded tiny pair answers, from Jane Austen's novels; --model google/gemma-4-E2B-it is a real one."
CACHE_FOLDER = "--prefix-cache-folder"
FOLDERS = ("--model", "--assistant-model", "--adapter-path", CACHE_FOLDER)
"""Options that may name a folder."""
NAMES = (EMBEDDED, f"{EMBEDDED}-assistant", "none", "matching")
"""What these take that is no folder, whatever lies about."""


@grouped
def serve(
    choice: ModelChoice,
    address: Address,
    said: Annotated[Said, Only(*DRAWN_UNSEEDED, *DRAFTED, *QUANTIZED, "prefill_step_size", **UNSAID)],
    limits: Limits,
    telling: Telling,
    keeping: Keeping,
    prompts: Prompts,
    learned: Learned = True,
) -> int:
    """Serve a model to apps: OpenAI's, Anthropic's, Ollama's and LM Studio's protocols, and a page to chat.

    Many requests are answered at once, each with drafts. Ctrl-C ends it: what is being answered is finished, or cut off
    after 10 seconds.
    """
    if keeping.remove_agent:
        return _remove_agent()
    check_choice(choice, said.over({"temperature": 1.0}))  # what no checkpoint can mend
    limits.check_folder()
    with ending_at_once():
        from ..server.facts import check_media_options
        from ..server.run import bind, check_installed
        from .serving import card_of, http_settings, room_for, run, service_of

    settings = http_settings(address, telling)
    if keeping.install_agent:
        check_installed()
        _, options, checkpoint = _opened(choice, said)
        check_media_options(checkpoint, prompts.media)
        room_for(checkpoint, options, limits)
        return _install_agent(address)
    if keeping.restart:
        return _keep_up(address, settings)
    with bind(settings) as listening:
        values, options, checkpoint = _opened(choice, said)
        card = card_of(checkpoint, options, limits, settings, listening)
        service = service_of(
            checkpoint,
            values,
            limits,
            settings,
            prompts,
            media_urls=address.allow_media_urls,
            memory=draft_memory(learned),
        )
        if choice.model == EMBEDDED:
            note(WHO_ANSWERS)
        run(service, settings, listening, card)
    return 0


def _opened(choice: ModelChoice, said: Said) -> tuple[dict[str, Any], GenerationOptions, "Checkpoint"]:
    """How requests are answered that do not say, as keywords and as options, and the pair before its weights are read.

    Raises:
        InputError: what was typed does not fit the model, or there is none.
    """
    values = {**checkpoint_sampling(choice.model), **said.values}
    options = GenerationOptions(**values)
    check_choice(choice, said.over({"temperature": options.temperature}))
    return values, options, open_checkpoint(choice, options)


def _words(*without: str) -> list[str]:
    """The command line as it was typed, apart from some options, and from the key, which everybody could read."""
    typed = sys.argv[2:] if sys.argv[1:2] == ["serve"] else sys.argv[1:]
    words: list[str] = []
    skip = False
    for word in typed:
        if skip or word in without or word.startswith("--api-key="):
            skip = False
        elif word == "--api-key":
            skip = True
        else:
            words.append(word)
    return [sys.executable, "-m", "mlx_gemma4_assist.serve", *words]


def _absolute(words: list[str]) -> list[str]:
    """The same command wherever it is run: folders that it names are named by their whole paths."""
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=")
        if equals and option in FOLDERS:
            found.append(f"{option}={_whole(option, value)}")
        else:
            found.append(_whole(before, word) if before in FOLDERS else word)
    return found


def _whole(option: str, name: str) -> str:
    """A folder by its whole path; what names no folder stays."""
    folder = Path(name).expanduser()
    is_one = option == CACHE_FOLDER or (name not in NAMES and folder.is_dir())
    return str(folder.absolute()) if is_one else name


def _agent(words: list[str], key: str | None) -> "Agent":
    from ..integrations.launchd import Agent, handed_on

    variables = handed_on(os.environ) | ({} if key is None else {KEY_VARIABLE: key})
    return Agent(Path.home(), words, variables)


def _install_agent(address: Address) -> int:
    from ..integrations.launchd import install, on_a_mac

    agent = _agent(_absolute(_words("--install-agent")), address.key)
    if not on_a_mac():
        print(agent.plist.decode(), end="")
        note(f"This is no Mac, so that nothing was done. There it would be {agent.file}.")
        return 0
    install(agent)
    note(f"The server runs now and from each login on; its log is {agent.log}. --remove-agent ends that.")
    return 0


def _remove_agent() -> int:
    from ..integrations.launchd import on_a_mac, remove

    agent = _agent([], None)
    if not on_a_mac():
        note(f"This is no Mac, so that nothing was done. There {agent.file} would be removed.")
        return 0
    note("The agent is gone." if remove(agent) else "There was no agent.")
    return 0


def _keep_up(address: Address, settings: "ServerSettings") -> int:
    from .supervisor import Supervisor, health

    if settings.port == 0:
        raise OptionError("{restart} asks the server how it does, and needs a {port} that stays the same")
    if address.key is not None:
        os.environ[KEY_VARIABLE] = address.key  # the server inherits it
    where = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.address
    return Supervisor(_words("--restart"), partial(health, f"http://{where}:{settings.port}/health")).run()
