"""The chat page in a real browser, against the real server: what one says is what the other understands."""

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import pytest
from support.browser import Browser, Page, chromium
from support.chat_page import ask, figures, opened, until_answered
from support.chat_server import DRAFTS, EMBEDDED, MAX_TOKENS, serving, write_model
from support.paths import PHOTO

BROWSER = chromium()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is found: apt install chromium, or Chrome")

QUESTION = "Describe the house, the garden, the park, and everybody who lives there, as she saw them."
PATIENCE = 10.0  # seconds
T = TypeVar("T")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    browser = Browser(BROWSER, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


class Served(NamedTuple):
    """The embedded pair: greedy, so that a question has one answer, and none ends before it is as long as it may be."""

    port: int

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, body: Any = None) -> str:
        """What it says at a path, posted to where there is a body."""
        content = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.origin}{path}", content)) as answer:
            return answer.read().decode()

    def running(self) -> int:
        return json.loads(self.get("/health"))["running"]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(EMBEDDED) as port:
        yield Served(port)


@pytest.fixture
def page(browser, server) -> Iterator[Page]:
    """The page, opened; nothing that it asks for is refused."""
    with opened(browser, server.origin, may_fail=False) as page:
        yield page


def counted(server: Served) -> dict[str, int]:
    """Tokens, rounds, and accepted drafts by their place, since the server began."""
    names = r"(completion_tokens|rounds|accepted_tokens|drafted_tokens)_total(?:\{place=\"(\d+)\"\})?"
    found = re.findall(rf"^gemma4_{names} (\S+)$", server.get("/metrics"), re.MULTILINE)
    return {name + place: int(float(value)) for name, place, value in found}


def since(server: Served, before: dict[str, int]) -> dict[str, int]:
    """What has been counted more, once the answer is; the server counts it when its last byte is sent."""
    told = until(lambda: (now := counted(server)) != before and now)
    return {name: value - before.get(name, 0) for name, value in told.items()}


def until(found: Callable[[], T]) -> T:
    """What is found, as soon as it is something."""
    deadline = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def kept(page: Page) -> list[str]:
    """The texts of all answers, as the page has been sent them."""
    return page.evaluate(KEPT)


KEPT = """import("/page/store.js").then(store => store.loadConversation(location.hash.slice(1))).then(
  conversation => conversation.nodes.flatMap(node => node.sides ?? []).map(side => side.text)
)"""


def test_an_answer_and_who_wrote_it(page, server):
    """Text, colours and figures are those of the server's own count."""
    page.click("#colours")
    before = counted(server)
    ask(page, QUESTION)
    told = since(server, before)
    assert told["completion_tokens"] == MAX_TOKENS
    assert page.text(".side > .markdown")
    assert page.text(".side .note") == "Cut off: the most tokens were reached."
    accepted = [told[f"accepted_tokens{place}"] for place in range(1, DRAFTS + 1)]
    assert sum(accepted) > 5
    counts = page.evaluate("[...document.querySelectorAll('#legend .count')].map(e => +e.innerText)")
    assert sum(counts) == MAX_TOKENS
    cut = [stood - shown for stood, shown in zip(accepted, counts[1:], strict=False)]  # of the last round, by the limit
    assert set(cut) <= {0, 1}
    assert counts[0] == told["rounds"] - any(cut) or cut == [0] * DRAFTS
    assert counts[0] in (told["rounds"], told["rounds"] - 1)
    assert counts[DRAFTS + 1 :] == [0] * (5 - DRAFTS)
    assert page.evaluate("document.querySelectorAll('.rounds rect').length") == MAX_TOKENS
    assert page.evaluate("document.querySelector('.rounds').getAttribute('aria-label')").startswith(
        f"{told['rounds']} rounds, on average {MAX_TOKENS / told['rounds']:.2f} tokens each"
    )
    coloured = set(page.evaluate("[...document.querySelectorAll('.side > .markdown span')].map(e => e.className)"))
    assert coloured >= {f"d{place}" for place, count in enumerate([1, *accepted]) if count > 3}
    (shown,) = figures(page)
    drafted = sum(told[f"drafted_tokens{place}"] for place in range(1, DRAFTS + 1))
    assert shown["tokens"] == str(MAX_TOKENS)
    assert shown["tokens per round"] == f"{MAX_TOKENS / told['rounds']:.2f}"
    assert shown["drafts accepted"] == f"{sum(accepted) / drafted:.0%}".replace("%", " %")
    assert re.fullmatch(r"[\d,.]+ tok/s", shown["speed"])
    assert re.fullmatch(r"[\d,.]+ m?s", shown["first token"])


def test_the_text_is_the_servers(page, server):
    """As it is to a client that asks for the same, without drafts; and the model is named as the server has it."""
    ask(page, QUESTION)
    assert page.evaluate("document.querySelector('#model').value") == "tiny"
    body = {"messages": [{"role": "user", "content": QUESTION}], "num_assistant_tokens": 0}
    text = json.loads(server.get("/v1/chat/completions", body))["choices"][0]["message"]["content"]
    assert kept(page) == [text]


def test_a_stop_frees_the_row_and_the_answer_can_be_had_again(page, server):
    """While it streams; the second version is shorter than the first would have been."""
    set_most_tokens(page, 3000)
    ask(page, QUESTION, answered=False)
    page.wait("document.querySelector('.side > .markdown').innerText.length > 20")
    assert server.running() == 1
    page.press("Escape")
    page.wait("document.querySelector('.side .note').innerText === 'Stopped.'")
    until(lambda: server.running() == 0)
    set_most_tokens(page, 8)
    page.click(".message.assistant [aria-label='Answer again']")
    page.wait("document.querySelector('.assistant .pager')?.innerText === '2 / 2'")
    until_answered(page)
    (shown,) = figures(page)
    assert shown["tokens"] == "8"
    stopped, again = kept(page)
    assert len(stopped) > 20
    assert stopped.startswith(again[:20])
    assert server.running() == 0


def set_most_tokens(page: Page, count: int) -> None:
    """In the settings."""
    page.click("#open-settings")
    page.wait("document.querySelector('#settings').open")
    page.evaluate("document.querySelector('#max-tokens').focus(); document.querySelector('#max-tokens').select()")
    page.type(str(count))
    page.evaluate("document.querySelector('#settings .main').click()")
    page.wait("!document.querySelector('#settings').open")


def test_conversations_outlive_a_reload(page, server):
    """And go on behind it: the next turn has all that was said before."""
    ask(page, QUESTION)
    said = page.text(".side > .markdown")
    page.reload()
    page.wait("document.querySelector('.bubble')?.innerText")
    assert page.text(".bubble") == QUESTION
    assert page.text(".side > .markdown") == said
    page.wait("document.querySelector('#model').value")
    ask(page, "And then?")
    first, second = (int(each["cached"].split(" of ")[1]) for each in figures(page))
    assert second > first + MAX_TOKENS


def test_plain_decoding_stands_beside_assisted(page, server):
    """Both write the same; a token is all that a round has without drafts."""
    page.click("#compare")
    ask(page, QUESTION)
    assisted, plain = figures(page)
    assert assisted["tokens"] == plain["tokens"] == str(MAX_TOKENS)
    assert float(assisted["tokens per round"]) > 1.2
    assert (plain["tokens per round"], plain["drafts accepted"]) == ("1.00", "–")
    assisted, plain = kept(page)
    assert assisted == plain != ""
    assert re.fullmatch(r"[\d.]+ times the speed with the assistant\. Both texts are the same\.", page.text(".verdict"))


def test_a_dropped_picture_is_seen(browser, tmp_path):
    """By a model that takes pictures and thinks; the page offers both, and the prompt has the picture's tokens."""
    with (
        serving(write_model(tmp_path / "random")) as port,
        opened(browser, f"http://127.0.0.1:{port}", may_fail=False) as page,
    ):
        assert page.count("#attach, #thinking, #colours, #compare") == 4
        ask(page, "Hello?")
        page.click("#new")
        page.wait("!document.querySelector('.message')")
        page.click("#thinking")
        page.drop("#composer", PHOTO)
        page.wait("document.querySelector('#pictures img')")
        ask(page, "Hello?")
        assert page.text(".failure") == ""
        (shown,) = figures(page)
        assert int(shown["cached"].split(" of ")[1]) > 60
        page.wait("document.querySelector('.bubble img').naturalWidth > 0")
        page.reload()
        page.wait("document.querySelector('.bubble img')?.naturalWidth > 0")
