"""The server's chat page in a real browser, against a server that answers what a test has written."""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.browser import CONTROL, SHIFT, Browser, Page, chromium
from support.chat_page import ask, figures, opened
from support.page_server import PAGE, POLICY, Body, PageServer, answer, chunk, in_rounds
from support.paths import PHOTO

BROWSER = chromium()
AXE = "4.14.1"
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is found: apt install chromium, or Chrome")

TEXT = """A drafter proposes **three tokens**, and the model checks them in one step:

1. those that *match* are kept,
2. the first that does not is replaced.

```python
def accepted(drafts, chosen):
    return next((i for i, (d, c) in enumerate(zip(drafts, chosen)) if d != c), len(drafts))
```

So the text is `exactly` the same. It is only there sooner."""
THOUGHT = "The user wants it short. A list, and a few lines of Python."


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    browser = Browser(BROWSER, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@contextmanager
def served() -> Iterator[PageServer]:
    server = PageServer(lambda body: answer(TEXT, THOUGHT, plain=body.get("num_assistant_tokens") == 0))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server() -> Iterator[PageServer]:
    with served() as server:
        yield server


@pytest.fixture(scope="module")
def modules(browser) -> Iterator[Page]:
    """A page whose modules are tried one by one."""
    with served() as server:
        page = browser.page()
        page.open(server.origin)
        yield page
        page.close()


@pytest.fixture
def page(browser, server) -> Iterator[Page]:
    """The page, opened."""
    with opened(browser, server.origin) as page:
        yield page


def test_an_answer_streams_with_its_thoughts_and_figures(page, server):
    ask(page, "How does it work?")
    (body,) = server.asked
    assert body["messages"] == [{"role": "user", "content": "How does it work?"}]
    assert body["stream"]
    assert body["draft_info"]
    assert body["stream_options"] == {"include_usage": True}
    assert body["model"] == "google/gemma-4-E2B-it"
    assert page.text(".side > .markdown strong") == "three tokens"
    assert page.evaluate("document.querySelectorAll('.side > .markdown > ol > li').length") == 2
    assert page.text(".side pre").startswith("def accepted(drafts, chosen):\n    return next(")
    assert not page.evaluate("document.querySelector('.thought').open")
    page.click(".thought summary")
    page.wait("document.querySelector('.thought .markdown').innerText")
    assert page.text(".thought .markdown") == THOUGHT
    (told,) = figures(page)
    rounds = [*in_rounds(THOUGHT), *in_rounds(TEXT)]
    tokens = sum(map(len, rounds))
    accepted = tokens - len(rounds)
    assert told["tokens per round"] == f"{tokens / len(rounds):.2f}"
    assert told["drafts accepted"] == f"{accepted / (accepted + accepted // 3):.0%}".replace("%", " %")
    assert told["speed"] == f"{tokens / len(rounds) / 0.021:.0f} tok/s"
    assert told["cached"] == "24 of 61"
    assert told["first token"].endswith((" ms", " s"))


def test_text_appears_while_it_streams(page, server):
    reading = {"choices": [{"delta": {}}], "prompt_progress": {"processed": 1000, "total": 4000}}
    rounds = [[("First", 0)], [(" second", 1), (" third", 0)]]
    server.script = lambda body: [reading, 0.5, chunk(rounds[0]), 0.5, chunk(rounds[1])]
    ask(page, "Slowly", answered=False)
    page.wait("document.querySelector('.side .note').innerText === 'Reading: 1,000 of 4,000 tokens'")
    page.wait("document.querySelector('.side > .markdown').innerText === 'First'")
    assert page.count("#stop") == 1
    assert page.count("#send") == 0
    assert page.text("#said") == ""
    page.wait("document.querySelector('.side > .markdown').innerText === 'First second third'")
    page.wait("document.querySelector('#said').innerText.startsWith('Answer: First second third')")


def test_drafts_have_colours_lines_and_a_legend(page):
    ask(page, "How does it work?")
    shown = "getComputedStyle(document.querySelector('.markdown .d2'))"
    assert page.evaluate(f"{shown}.textDecorationLine") == "none"
    page.click("#colours")
    page.wait("!document.querySelector('#legend').hidden")
    assert page.evaluate(f"{shown}.textDecorationLine") == "underline"
    looks = [page.evaluate(LOOK.format(place)) for place in range(1, 5)]
    assert len({style for style, _ in looks}) == len({colour for _, colour in looks}) == 4
    # The code of the answer is shown as it was written: each token has its own place there.
    start = TEXT.index("def accepted")
    end = TEXT.index("\n```\n", start)
    by_hand, at = [], 0
    for text, place in (token for tokens in in_rounds(TEXT) for token in tokens):
        by_hand += [place for i in range(at, at + len(text)) if start <= i < end and not TEXT[i].isspace()]
        at += len(text)
    assert page.evaluate(PLACES) == by_hand
    counts = page.evaluate("[...document.querySelectorAll('#legend .count')].map(e => +e.innerText)")
    places = [place for content in (THOUGHT, TEXT) for tokens in in_rounds(content) for _, place in tokens]
    assert counts == [places.count(place) for place in range(6)]
    assert page.evaluate("document.querySelectorAll('.rounds rect').length") == len(places)


PLACES = """[...document.querySelectorAll(".side > .markdown pre span")].flatMap(
  span => [...span.textContent.replace(/\\s/g, "")].map(() => +span.className[1])
)"""
LOOK = "(s => [s.textDecorationStyle, s.backgroundColor])(getComputedStyle(document.querySelector('.markdown .d{}')))"


def endless(body: Body) -> Iterator[Body | float]:
    while True:
        yield chunk([("word ", 0)])
        yield 0.01


def test_escape_stops_and_the_answer_can_be_had_again(page, server):
    server.script = endless
    ask(page, "Go on for ever", answered=False)
    page.wait("document.querySelector('.side > .markdown').innerText.includes('word word')")
    page.press("Escape")
    assert server.broken_off.wait(10)
    page.wait("document.querySelector('.side .note').innerText === 'Stopped.'")
    assert "word word" in page.text(".side > .markdown")
    server.script = lambda body: answer("Short.")
    page.click(".message.assistant [aria-label='Answer again']")
    page.wait("document.querySelector('.side > .markdown').innerText === 'Short.'")
    assert page.text(".assistant .pager") == "2 / 2"
    page.click("[aria-label='Version before']")
    page.wait("document.querySelector('.side > .markdown').innerText.includes('word word')")
    assert server.asked[0]["messages"] == server.asked[1]["messages"]


def test_a_question_is_edited_beside_the_first(page, server):
    ask(page, "Firts")
    page.press("ArrowUp")
    page.wait("document.activeElement.getAttribute('aria-label') === 'Edit message'")
    page.evaluate("document.activeElement.select()")
    page.type("First")
    page.press("Enter")
    page.wait("document.querySelector('.bubble')?.innerText === 'First'")
    page.wait("!document.querySelector('#send').hidden")
    assert [message["content"] for message in server.asked[1]["messages"]] == ["First"]
    assert page.text(".user .pager") == "2 / 2"
    ask(page, "And then?")
    assert [message["role"] for message in server.asked[2]["messages"]] == ["user", "assistant", "user"]
    assert server.asked[2]["messages"][1]["content"] == TEXT
    page.click(".user [aria-label='Version before']")
    page.wait("document.querySelector('.bubble').innerText === 'Firts'")
    assert page.count(".message") == 2


def test_a_dropped_picture_is_shown_and_sent(page, server):
    page.drop("#composer", PHOTO)
    page.wait("document.querySelector('#pictures img')")
    assert page.evaluate("document.querySelector('#pictures img').getBoundingClientRect().width") < 100
    ask(page, "Who is it?")
    picture, question = server.asked[0]["messages"][0]["content"]
    assert picture["type"] == "image_url"
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert question == {"type": "text", "text": "Who is it?"}
    page.wait("document.querySelector('.bubble img').naturalWidth > 0")
    assert page.count("#pictures img") == 0


def test_large_pictures_are_made_smaller_and_pasted_ones_taken(page, server):
    page.evaluate(PASTE)
    page.wait("document.querySelector('#pictures img')?.naturalWidth")
    assert page.evaluate("document.querySelector('#pictures img').naturalWidth") == 1536
    page.click("[aria-label='Remove picture 1']")
    page.wait("!document.querySelector('#pictures img')")


PASTE = """(async () => {
  const canvas = new OffscreenCanvas(3072, 100);
  canvas.getContext("2d").fillRect(0, 0, 10, 10);
  const data = new DataTransfer();
  data.items.add(new File([await canvas.convertToBlob()], "wide.png", { type: "image/png" }));
  document.querySelector("#text").dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
})()"""


def test_conversations_outlive_a_reload(page, server):
    page.drop("#composer", PHOTO)
    page.wait("document.querySelector('#pictures img')")
    ask(page, "Remember me")
    page.click("#new")
    page.wait("!document.querySelector('.message')")
    ask(page, "Another one")
    page.reload()
    page.wait("document.querySelector('.bubble')?.innerText === 'Another one'")
    page.wait(f"String({TITLES}) === 'Another one,Remember me'")
    page.click("#conversations li:nth-child(2) .open")
    page.wait("document.querySelector('.bubble p').innerText === 'Remember me'")
    page.wait("document.querySelector('.bubble img').naturalWidth > 0")
    assert page.text(".side > .markdown strong") == "three tokens"


TITLES = "[...document.querySelectorAll('#conversations .open')].map(e => e.innerText)"


def test_an_answer_under_way_is_kept_by_a_reload(page, server):
    server.script = endless
    ask(page, "Go on", answered=False)
    page.wait("document.querySelector('.side > .markdown').innerText.length > 20")
    page.evaluate("new Promise(done => setTimeout(done, 1200))")  # it is kept every second
    page.reload()
    page.wait("document.querySelector('.side .note')?.innerText === 'Stopped.'")
    assert "word word" in page.text(".side > .markdown")


def test_conversations_are_renamed_exported_and_deleted(page, server, tmp_path):
    ask(page, "What is it called?")
    page.click("[aria-label='Rename What is it called?']")
    page.wait("document.querySelector('#ask').open")
    page.evaluate("document.querySelector('#ask-value').select()")
    page.type("Names")
    page.press("Enter")
    page.wait("document.querySelector('#title').innerText === 'Names'")
    page.browser.send(
        "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), browserContextId=page.context
    )
    page.click("[aria-label='Export Names']")
    page.wait("document.querySelector('#ask').open")
    page.press("Enter")
    assert "## You\n\nWhat is it called?\n\n## Gemma\n\nA drafter" in downloaded(page, tmp_path / "names.md")
    page.click("#export-all")
    (kept,) = json.loads(downloaded(page, tmp_path / "conversations.json"))
    assert kept["title"] == "Names"
    page.click("[aria-label='Delete Names']")
    page.wait("document.querySelector('#ask').open")
    page.click("#ask-ok")
    page.wait("!document.querySelector('#conversations li')")
    page.reload()
    page.wait("document.querySelector('#model')?.value")
    assert page.evaluate(TITLES) == []


def downloaded(page: Page, path: Path) -> str:
    for _ in range(200):
        if path.exists():
            return path.read_text()
        page.evaluate("new Promise(done => setTimeout(done, 25))")
    raise AssertionError(f"{path.name} was not downloaded: {os.listdir(path.parent)}")


def test_plain_decoding_stands_beside_assisted(page, server):
    page.click("#compare")
    ask(page, "How fast?")
    assisted, plain = server.asked
    assert plain == assisted | {"num_assistant_tokens": 0}
    assert "num_assistant_tokens" not in assisted
    assert isinstance(assisted["seed"], int)
    rates = page.evaluate("[...document.querySelectorAll('.side')].map(e => e.querySelectorAll('dd')[2].innerText)")
    assert len(rates) == 2
    assert float(rates[0].split()[0]) > float(rates[1].split()[0])
    rounds = [*in_rounds(THOUGHT), *in_rounds(TEXT)]
    times = sum(map(len, rounds)) / len(rounds)
    assert page.text(".verdict") == f"{times:.2f} times the speed with the assistant. Both texts are the same."
    ask(page, "Next")
    assert [message["content"] for message in server.asked[2]["messages"]] == ["How fast?", TEXT, "Next"]


def test_a_thought_is_ended(page, server):
    def thinks(body: Body) -> Iterator[Body | float]:
        while not server.ended:
            yield chunk([("hm ", 0)], "reasoning_content", id="chatcmpl-12")
            yield 0.01
        yield from answer("Well.")

    server.script = thinks
    ask(page, "Think", answered=False)
    page.click(".enough")
    page.wait("document.querySelector('.side > .markdown').innerText === 'Well.'")
    assert server.ended == ["/v1/thoughts/chatcmpl-12/end"]
    assert page.count(".enough") == 0


def test_only_what_the_model_can_do_is_offered(page, server):
    assert page.count("#attach, #thinking, #colours, #compare") == 4
    server.model = {"id": "google/gemma-4-E2B-it", "capabilities": [], "assistant": None}
    page.reload()
    page.wait("document.querySelector('#model')?.value")
    assert page.count("#attach, #thinking, #colours, #compare") == 0


def test_settings_go_into_requests(page, server):
    page.click("#open-settings")
    page.wait("document.querySelector('#settings').open")
    for field, value in {"system": "Be brief.", "temperature": "0.5", "max-tokens": "77"}.items():
        page.evaluate(f"document.querySelector('#{field}').focus()")
        page.type(value)
    page.evaluate("document.querySelector('#settings .main').click()")
    page.click("#thinking")
    ask(page, "Hello")
    (body,) = server.asked
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["max_tokens"]) == (0.5, 77)
    assert body["chat_template_kwargs"] == {"enable_thinking": True}


def test_errors_are_told_and_a_key_is_asked_for(page, server):
    server.refusal = (401, "This server wants a key.")
    ask(page, "Hello")
    assert page.text(".failure") == "This server wants a key."
    page.wait("document.querySelector('#settings').open")
    page.wait("document.activeElement?.id === 'key'")
    assert page.text("#settings-reason") == "This server wants a key."
    page.type("secret")
    page.press("Enter")
    server.refusal = None
    server.script = lambda body: [chunk([("Half", 0)]), {"error": {"message": "The engine failed."}}]
    page.click("[aria-label='Answer again']")
    page.wait("document.querySelector('.failure')?.innerText === 'The engine failed.'")
    assert page.text(".side > .markdown") == "Half"
    assert server.keys == [None, "Bearer secret"]
    assert page.evaluate("[sessionStorage.getItem('api-key'), JSON.stringify(localStorage).includes('secret')]") == [
        "secret",
        False,
    ]


def test_a_key_is_asked_for_at_once_where_models_are_told_to_nobody_without(page, server):
    server.key = "Bearer secret"
    page.reload()
    for key in ("wrong", "secret"):
        page.wait("document.activeElement?.id === 'key'")
        page.evaluate("document.activeElement.select()")
        page.type(key)
        page.press("Enter")
    page.wait("document.querySelector('#model').value")


def test_keyboard(page):
    ask(page, "How does it work?")
    page.press("d", CONTROL | SHIFT)
    assert page.evaluate("document.documentElement.hasAttribute('data-colours')")
    page.press("/", CONTROL)
    page.wait("document.querySelector('#keys').open")
    page.press("Escape")
    page.wait("!document.querySelector('#keys').open")
    page.press("o", CONTROL | SHIFT)
    page.wait("!document.querySelector('.message')")
    assert page.evaluate("document.activeElement.id") == "text"
    page.evaluate("document.activeElement.blur()")
    order = []
    for _ in range(40):
        page.press("Tab")
        order.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
    wanted = ["skip", "new", "open", "export-all", "open-keys", "theme", "open-settings", "scroll"]
    wanted += ["text", "attach", "thinking", "colours", "compare", "send"]
    assert [name for name in dict.fromkeys(order) if name in wanted] == wanted


def test_telephones(page):
    page.size(320, 640)
    page.wait("!document.querySelector('#sidebar').checkVisibility({visibilityProperty: true})")
    page.click("#compare")
    page.click("#colours")
    ask(page, "How does it work?")
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    assert page.evaluate(TOO_WIDE) == []
    page.click("#open-sidebar")
    page.wait("document.querySelector('#new').checkVisibility({visibilityProperty: true})")
    assert page.evaluate("document.activeElement.id") == "new"
    page.press("Escape")
    page.wait("!document.body.classList.contains('listing')")
    assert page.evaluate("document.activeElement.id") == "open-sidebar"


TOO_WIDE = """[...document.querySelectorAll("main *")]
  .filter(each => !each.closest("pre") && each.getBoundingClientRect().right > 321)
  .map(each => each.outerHTML)"""


def test_appearance_follows_the_system_until_it_is_chosen(page, server):
    ground = "getComputedStyle(document.body).backgroundColor"
    page.prefer("light")
    light = page.evaluate(ground)
    page.prefer("dark")
    assert page.evaluate(ground) != light
    page.click("#theme")
    assert page.evaluate(ground) == light
    page.reload()
    page.wait("document.querySelector('#model')?.value")
    assert page.evaluate(ground) == light


@pytest.mark.parametrize(
    ("source", "html"),
    [
        ("<img src=x onerror=alert(1)>", "<p>&lt;img src=x onerror=alert(1)&gt;</p>"),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"),
        (
            "![x](https://e.org/x.png)",
            '<p><a href="https://e.org/x.png" target="_blank" rel="noopener noreferrer">x</a></p>',
        ),
        (
            "see https://e.org/a_b.",
            '<p>see <a href="https://e.org/a_b" target="_blank" rel="noopener noreferrer">https://e.org/a_b</a>.</p>',
        ),
        ("# One *two*", '<h4 class="level1">One <em>two</em></h4>'),
        ("a\nb", "<p>a<br>b</p>"),
        (
            "***x*** **y *z*** snake_case_name 2 * 3 * 4",
            "<p><strong><em>x</em></strong> <strong>y <em>z</em></strong> snake_case_name 2 * 3 * 4</p>",
        ),
        (r"\*no\* `a*b*` ``a`b``", "<p>*no* <code>a*b*</code> <code>a`b</code></p>"),
        ("~~old~~ **open", "<p><del>old</del> **open</p>"),
        ("$a_1 * b_1$ costs $5 and $6", '<p><span class="math">$a_1 * b_1$</span> costs $5 and $6</p>'),
        (
            "* a\n* b\n    * c\n\n1. d\n2. e",
            "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><ol><li>d</li><li>e</li></ol>",
        ),
        ("3. a\n\n   b\n4. c", '<ol start="3"><li><p>a</p><p>b</p></li><li><p>c</p></li></ol>'),
        ("> a\n> - b", "<blockquote><p>a</p><ul><li>b</li></ul></blockquote>"),
        ("a\n\n---\nb", "<p>a</p><hr><p>b</p>"),
        (
            "| a | b |\n|---|--:|\n| `x|y` | 2 |",
            '<div class="table" tabindex="0" role="region" aria-label="Table"><table><thead><tr><th scope="col">a</th>'
            '<th class="right" scope="col">b</th></tr></thead><tbody><tr><td><code>x|y</code></td>'
            '<td class="right">2</td></tr></tbody></table></div>',
        ),
    ],
)
def test_markdown(modules, source, html):
    assert modules.evaluate(RENDERED.format(json.dumps(source))) == html


RENDERED = """import("/page/markdown.js").then(({{ renderMarkdown }}) => {{
  const place = document.createElement("div");
  const text = {};
  for (let end = 1; end <= text.length; end += 1) renderMarkdown(place, text.slice(0, end));
  return place.innerHTML;
}})"""


@pytest.mark.parametrize(
    ("tokens", "texts", "runs"),
    [
        ([["a", 0], ["b", 1]], ["ab"], [[1, 0], [1, 1]]),
        ([["ab", 1], ["c", 0]], ["a", "bc"], [[2, 1], [1, 0]]),
        ([["<|channel>", 0], ["thought", 1], ["\n", 0], ["Hi", 1]], ["Hi"], [[2, 1]]),
        ([["\ufffd", 2], ["\ufffd", 3], [" x", 0]], ["é x"], [[1, 2], [2, 0]]),
        ([[" Hello", 1], [" you", 0]], ["Hello you"], [[1, 1], [8, 0]]),
        ([], ["unknown"], [[7, -1]]),
    ],
)
def test_who_wrote_which_characters(modules, tokens, texts, runs):
    script = """import("/page/drafts.js").then(({{ TokenQueue, addRun }}) => {{
      const queue = new TokenQueue();
      queue.push({});
      const runs = [];
      for (const text of {}) for (const [length, place] of queue.runs(text)) addRun(runs, length, place);
      return runs;
    }})"""
    assert modules.evaluate(script.format(json.dumps(tokens), json.dumps(texts))) == runs


def test_the_page_needs_nothing_but_its_own_files():
    """Nothing is named that is elsewhere, and nothing is written as HTML."""
    texts = {path.name: path.read_text() for path in PAGE.iterdir()}
    assert {"index.html", "style.css", "app.js", "markdown.js"} <= texts.keys()
    for word in (
        "innerHTML",
        "insertAdjacentHTML",
        "outerHTML",
        "eval(",
        "document.write",
        " style=",
        "@import",
        "url(",
    ):
        assert [name for name, text in texts.items() if word in text] == []
    assert {name: lines for name, text in texts.items() if (lines := text.count("\n")) > 300} == {}
    assert "'unsafe" not in POLICY


@functools.cache
def axe(folder: Path) -> str:
    """The source of axe-core, from the npm registry."""
    if not shutil.which("npm"):
        pytest.skip("no npm is found, which gets axe-core")
    done = subprocess.run(
        ["npm", "pack", "--silent", "--fetch-retries=0", "--fetch-timeout=20000", f"axe-core@{AXE}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        pytest.skip(f"axe-core cannot be fetched: {done.stderr.strip().splitlines()[-1:]}")
    shutil.unpack_archive(folder / done.stdout.strip(), folder, "gztar")
    return (folder / "package" / "axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_serious_fault(page, server, scheme, width, tmp_path_factory):
    source = axe(tmp_path_factory.getbasetemp())
    page.prefer(scheme)
    page.size(width, 844)
    faults = serious(page, source)
    page.click("#compare")
    page.click("#colours")
    ask(page, "How does it work?")
    server.refusal = (503, "The queue is full.")
    ask(page, "And now?")
    page.click(".thought summary")
    faults += serious(page, source)
    page.click("#open-settings")
    page.wait("document.querySelector('#settings').open")
    assert faults + serious(page, source) == []


def serious(page: Page, source: str) -> list[str]:
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(f"{source}; 0")
    found = page.evaluate("axe.run().then(done => done.violations)")
    return [
        f"{fault['id']}: {node['html']} {node['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
