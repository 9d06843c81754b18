"""What went wrong, as the protocols tell of it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ..engine.admission import OutOfMemory
from ..engine.tasks import Closing, LoadingFailed, QueueFull
from ..errors import InputError, OptionError, first_line
from .exchange import RequestError, bad_request

OVERLOADED, SERVER = "overloaded_error", "server_error"
TOO_LONG = "context_length_exceeded"
UNAVAILABLE = 503
SHUTTING_DOWN = 5  # seconds after which another server may be there
NO_FIELDS: Mapping[str, str] = {}


def request_error(
    error: Exception, retry_after: Callable[[], int], fields: Mapping[str, str] = NO_FIELDS
) -> RequestError:
    """An error of the package as one of a request.

    Args:
        error: any.
        retry_after: for how many seconds who is refused for want of room should wait.
        fields: what the request calls options, where that is another name.
    """
    sentence = first_line(error)
    match error:
        case RequestError():
            return error
        case QueueFull():
            return RequestError(UNAVAILABLE, sentence, OVERLOADED, code="queue_full", retry_after=retry_after())
        case OutOfMemory():
            return RequestError(UNAVAILABLE, sentence, OVERLOADED, code="out_of_memory", retry_after=retry_after())
        case Closing():
            return RequestError(UNAVAILABLE, sentence, OVERLOADED, code="shutting_down", retry_after=SHUTTING_DOWN)
        case LoadingFailed():
            return RequestError(UNAVAILABLE, sentence, SERVER, code="model_not_loaded")
        case OptionError():
            name = error.option
            return bad_request(error.spelled(fields), fields.get(name, name) if name else None)
        case InputError():
            return bad_request(sentence)
    return RequestError(500, f"the engine failed: {sentence}", SERVER)


def too_long(tokens: int, context: int, param: str) -> RequestError:
    """A prompt that leaves no room for an answer."""
    return bad_request(
        f"This model's maximum context length is {context} tokens, but the prompt has {tokens}.", param, TOO_LONG
    )


@contextmanager
def as_request_errors(retry_after: Callable[[], int], fields: Mapping[str, str] = NO_FIELDS) -> Iterator[None]:
    """Raises:
    RequestError: in the place of what is wrong with a request, or of a refusal.
    """
    try:
        yield
    except InputError as error:
        raise request_error(error, retry_after, fields) from None
