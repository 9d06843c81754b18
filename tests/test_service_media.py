"""Pictures and sound in conversations: answered as alone; nothing is opened that a client names."""

import base64
import io
import queue

import mlx.core as mx
import pytest
from PIL import Image
from support import media as media_helpers
from support.multimodal import write_pair

from mlx_gemma4_assist import InputError, MediaOptions, stream_generate
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.media.known import KnownMedia
from mlx_gemma4_assist.server.exchange import Answer, ChatRequest, Failed, Finished, RequestError, collected
from mlx_gemma4_assist.server.service import Service, Settings

OPTIONS = {"max_tokens": 12, "temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return Checkpoint.open(write_pair(tmp_path_factory.mktemp("media") / "pair"))


@pytest.fixture(scope="module")
def pair(checkpoint):
    return checkpoint.load()


@pytest.fixture(scope="module")
def service(checkpoint, pair):
    service = Service(checkpoint, load=lambda: pair)
    yield service
    service.close()


def url(side: int) -> str:
    file = io.BytesIO()
    Image.fromarray(media_helpers.picture(side, side)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def shows(*sides: int) -> list[dict]:
    parts = [{"type": "image", "url": url(side)} for side in sides]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}]


def asked(service: Service, messages: list[dict]) -> Answer:
    heard, events = queue.Queue(), []
    service.submit(ChatRequest(model="", messages=messages, options=OPTIONS), heard.put)
    while not events or not isinstance(events[-1], Finished | Failed):
        events.append(heard.get(timeout=60))
    return collected(events)


def test_pictures_are_seen_as_alone(service, pair):
    prompt = pair.media.read(shows(96, 64))
    made = stream_generate(pair.target, pair.processor, prompt, pair.assistant, **OPTIONS)
    answer = asked(service, shows(96, 64))
    assert [token.id for token in answer.choices[0].tokens] == [response.token for response in made]
    assert answer.prompt_tokens == len(prompt.tokens)
    assert list(service.tokens(ChatRequest(model="", messages=shows(96, 64)))) == prompt.tokens


def test_pictures_may_take_fewer_tokens(service, checkpoint, pair):
    request = ChatRequest(model="", messages=shows(640))
    small = Service(checkpoint, Settings(media=MediaOptions(max_soft_tokens=70)), load=lambda: pair)
    try:
        assert len(small.tokens(request)) < 100 < 250 < len(service.tokens(request))
    finally:
        small.close()
    for options, named in ((MediaOptions(max_soft_tokens=70), "max_soft_tokens"), (MediaOptions(fps=1), "fps")):
        with pytest.raises(InputError, match=f"{named} is for pictures, and tiny takes none"):
            Service(Checkpoint.open("tiny"), Settings(media=options))


def test_the_model_tells_what_it_takes(service):
    assert service.model.pictures
    assert service.model.video


def test_a_picture_is_known_again(service, pair, monkeypatch):
    """It is not even encoded."""
    first = asked(service, shows(96))
    monkeypatch.setattr(type(pair.media.towers), "see", None)
    again = asked(service, shows(96))
    assert again.cached_tokens == again.prompt_tokens - 1 > 0
    assert again.choices[0].answer == first.choices[0].answer
    with pytest.raises(RequestError):
        asked(service, shows(80))


def test_what_was_not_asked_for_longest_is_forgotten():
    known, arrays = KnownMedia(100), [mx.zeros((10,)) + i for i in range(3)]
    for key in range(2):
        known.keep(key, arrays[key])
    assert known.find(0) is arrays[0]
    known.keep(2, arrays[2])
    assert [known.find(key) is None for key in range(3)] == [False, True, False]
    known.keep(3, mx.zeros((26,)))
    assert known.find(3) is None


@pytest.mark.parametrize("source", [__file__, f"file://{__file__}", "http://127.0.0.1:1/a.png", "data:image/png,no"])
def test_nothing_is_opened_that_a_client_names(service, source):
    messages = [{"role": "user", "content": [{"type": "image", "url": source}]}]
    with pytest.raises(RequestError) as caught:
        service.submit(ChatRequest(model="", messages=messages), lambda event: None)
    assert caught.value.status == 400
    assert __file__ not in caught.value.message
