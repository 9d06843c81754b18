"""``serve``: the server, from its options to its end."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import OptionError
from ..options import FILTERS, GenerationOptions
from .interrupts import ending_at_once
from .loading import check_choice, checkpoint_sampling, draft_memory, open_checkpoint
from .options import DRAFTED, DRAWN, EMBEDDED, QUANTIZED, Learned, ModelChoice, Only, Said, grouped
from .serve_options import KEY_VARIABLE, Address, Keeping, Limits, Telling
from .streams import note

if TYPE_CHECKING:
    from ..integrations.launchd import Agent
    from ..server.settings import ServerSettings

OF_CHECKPOINT = "Where a request does not say; without it as in the checkpoint's generation_config.json."
UNSAID = {"max_tokens": "Where a request does not say; without it 4,096."} | dict.fromkeys(FILTERS, OF_CHECKPOINT)
DRAWN_UNSEEDED = tuple(name for name in DRAWN if name != "seed")
WHO_ANSWERS = "The embedded tiny pair answers, from Jane Austen's novels; --model google/gemma-4-E2B-it is a real one."
Thinking = Annotated[
    bool,
    typer.Option("--thinking", help="Let the model think first where a request does not say."),
]


@grouped
def serve(
    choice: ModelChoice,
    address: Address,
    said: Annotated[Said, Only(*DRAWN_UNSEEDED, *DRAFTED, *QUANTIZED, "prefill_step_size", **UNSAID)],
    limits: Limits,
    telling: Telling,
    keeping: Keeping,
    thinking: Thinking = False,
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
        from ..server.run import bind
        from .serving import card_of, http_settings, run, service_of

    settings = http_settings(address, telling)
    if keeping.install_agent:
        return _install_agent(address)
    if keeping.restart:
        return _keep_up(address, settings)
    with bind(settings) as listening:
        values = {**checkpoint_sampling(choice.model), **said.values}
        options = GenerationOptions(**values)
        check_choice(choice, said.over({"temperature": options.temperature}))
        checkpoint = open_checkpoint(choice, options)
        card = card_of(checkpoint, options, limits, settings, listening)
        service = service_of(
            checkpoint,
            values,
            limits,
            settings,
            thinking=thinking,
            media_urls=address.allow_media_urls,
            memory=draft_memory(learned),
        )
        if choice.model == EMBEDDED:
            note(WHO_ANSWERS)
        run(service, settings, listening, card)
    return 0


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


def _agent(words: list[str], key: str | None) -> "Agent":
    from ..integrations.launchd import Agent, handed_on

    variables = handed_on(os.environ) | ({} if key is None else {KEY_VARIABLE: key})
    return Agent(Path.home(), words, variables, Path.cwd())


def _install_agent(address: Address) -> int:
    from ..integrations.launchd import install, on_a_mac

    agent = _agent(_words("--install-agent"), address.key)
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
