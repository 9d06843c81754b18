"""The chat page as its tests use it: what is asked of it, and what it must never do."""

from collections.abc import Iterator
from contextlib import contextmanager

from .browser import Browser, Page

FIGURES = "[...document.querySelectorAll('.figures {}')].map(e => e.innerText)"
WATCH = """const violations = [];
document.addEventListener("securitypolicyviolation", event => violations.push(event.violatedDirective));"""


@contextmanager
def opened(browser: Browser, origin: str, *, may_fail: bool = True) -> Iterator[Page]:
    """The page, whose models are known. Whatever is done with it, it keeps to its origin and to its policy, and nothing
    fails.

    Args:
        browser: that shows it.
        origin: of its server.
        may_fail: whether the server may refuse what it asks for, of which the browser writes a line.
    """
    page = browser.page()
    page.send("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    page.open(origin)
    page.wait("document.querySelector('#model').value")
    yield page
    assert page.evaluate("violations") == []
    assert page.events("Runtime.exceptionThrown") == []
    assert [event for event in page.events("Runtime.consoleAPICalled") if event["type"] in ("error", "assert")] == []
    entries = [event["entry"] for event in page.events("Log.entryAdded")]
    assert [entry["text"] for entry in entries if not (may_fail and entry["source"] == "network")] == []
    addresses = [event["request"]["url"] for event in page.events("Network.requestWillBeSent")]
    assert len(addresses) > 10
    assert [url for url in addresses if not url.startswith((f"{origin}/", "data:", f"blob:{origin}/"))] == []
    page.close()


def ask(page: Page, text: str, answered: bool = True) -> None:
    """Type it, send it by Enter, and wait for the answer."""
    before = page.evaluate("document.querySelectorAll('.side').length")
    page.evaluate("document.querySelector('#text').focus()")
    page.type(text)
    page.press("Enter")
    page.wait(f"document.querySelectorAll('.side').length > {before}")
    if answered:
        until_answered(page)


def until_answered(page: Page) -> None:
    """Wait for the end of what is being answered."""
    page.wait("!document.querySelector('.side.running')")
    page.wait("!document.querySelector('#send').hidden")


def figures(page: Page) -> list[dict[str, str]]:
    """What the page says of each side of its answers."""
    names, values = (page.evaluate(FIGURES.format(tag)) for tag in ("dt", "dd"))
    told = list(zip(names, values, strict=True))
    count = len(dict(told))
    return [dict(told[start : start + count]) for start in range(0, len(told), count)]
