"""A plugin of the ``llm`` command: Gemma 4 in its own process. ``connect llm`` points it at a server instead.

``llm`` imports this at every start, so that nothing heavy may be imported before a model is used.
"""

import atexit
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import llm

if TYPE_CHECKING:
    from ..server.endpoint import Backend

SIZES = ("E2B", "E4B", "12B", "26B-A4B", "31B")
EMBEDDED = "tiny"
MORE = "mlx-gemma4-assist.json"
"""In ``llm``'s folder: a JSON list of further models, folders or repos on the Hub."""


class Options(llm.Options):  # type: ignore[misc] # llm has no types
    """Those of generation that people use; what is not said is as the checkpoint says."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    num_assistant_tokens: int | None = None
    thinking: bool | None = None


class Gemma4(llm.Model):  # type: ignore[misc] # llm has no types
    """A target and the assistant that belongs to it.

    Args:
        model: a folder, a repo on the Hub, or ``tiny``.
        model_id: its name in ``llm``.
    """

    can_stream = True
    supports_schema = True
    supports_tools = True
    attachment_types = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "audio/wav", "audio/mpeg"})
    Options = Options

    def __init__(self, model: str, model_id: str):
        self.model_id = model_id
        self._model = model

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[str]:
        """The answer's text; calls of tools and figures are left with the response."""
        from ..server.exchange import Answer, RequestError
        from .llm_requests import answer_of, arguments_of, chat_request

        request = chat_request(self._model, prompt, conversation.responses if conversation else ())
        answer = Answer()
        try:
            yield from answer_of(_backend(self._model), request, answer)
        except RequestError as error:
            raise llm.ModelError(error.message) from None
        for call in filter(lambda call: call.complete, answer.choices[0].calls):
            arguments = arguments_of(call.arguments)
            response.add_tool_call(llm.ToolCall(name=call.name, arguments=arguments, tool_call_id=call.id))
        usage = answer.usage
        response.set_usage(
            input=answer.prompt_tokens,
            output=usage.completion_tokens,
            details={"drafted": usage.drafted, "accepted": usage.accepted, "rounds": usage.rounds},
        )


_lock = threading.Lock()
_backends: "dict[str, Backend]" = {}


def _backend(model: str) -> "Backend":
    """What answers for a model; made when it is first asked for, and ended with the process."""
    from ..errors import InputError
    from ..server.opening import open_backend

    with _lock:
        if model not in _backends:
            try:
                _backends[model], close = open_backend(model)
            except InputError as error:
                raise llm.ModelError(str(error)) from None
            atexit.register(close)
        return _backends[model]


def _more() -> list[str]:
    """Further models that the user has named; none where the file is not as it should be."""
    from ..errors import InputError
    from ..files import parse_json, read_text

    file = llm.user_dir() / MORE
    try:
        found = parse_json(read_text(file), str(file)) if file.exists() else []
    except InputError:
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


@llm.hookimpl  # type: ignore[untyped-decorator] # llm has no types
def register_models(register: Callable[..., None]) -> None:
    """Google's five sizes, the embedded pair, and what the user has named."""
    for size in SIZES:
        register(Gemma4(f"google/gemma-4-{size}-it", f"gemma4/{size}"), aliases=(f"gemma-4-{size.lower()}",))
    register(Gemma4(EMBEDDED, f"gemma4/{EMBEDDED}"))
    for model in _more():
        register(Gemma4(model, f"gemma4/{model.rstrip('/').rpartition('/')[2]}"))
