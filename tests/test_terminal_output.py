"""What a person sees of an answer: the screen is compared, for terminals of all kinds and text of any."""

import io
import os
import random
import re
import termios
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import pytest
from support.screens import Screen, Window

from mlx_gemma4_assist.server.chat_session import ReplyPiece, Span
from mlx_gemma4_assist.server.exchange import Finished, FinishReason, Usage
from mlx_gemma4_assist.terminal import code, markdown
from mlx_gemma4_assist.terminal.answer_view import AnswerView
from mlx_gemma4_assist.terminal.statistics import legend, statistics
from mlx_gemma4_assist.terminal.style import Terminal, broken, made_visible


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def cut(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def answered(screen: Screen, text: str, size: int = 4, **options) -> Screen:
    """The screen once a text has been shown in pieces, below a line that was there before."""
    screen.terminal.write("before\n")
    view = AnswerView(screen.terminal, **options)
    for piece in cut(text, size):
        view.show(ReplyPiece(piece))
    view.finish()
    return screen


DOCUMENT = """\
# The *title*

A paragraph with **bold**, `code` and [a link](http://example.org/x),
in two lines.

1. one
2. two, which is so long that it does not fit into one row of a narrow window
   - inner
   - 中文字 and e\u0301 and 👩‍👩‍👧 and ❤️

   ```python
   return None  # inner
   ```
3. three
* a
* b

> quoted
> again

| name | value |
|------|------:|
| x    | 1     |
| 長い | 22    |

```python
def f(x):
    \"\"\"A text
    of two lines.\"\"\"

    return x + 1
```
Text behind it.
***
&amp; <b>tag</b> ![picture](http://p.example/a.png)

[ref]: http://ref.example

Last"""


# Where output goes


def test_facts_are_asked_anew():
    screen = Screen(80, 24)
    assert screen.terminal.interactive
    assert screen.terminal.colour
    assert (screen.terminal.width, screen.terminal.height) == (80, 24)
    screen.environ["COLUMNS"] = "20"
    assert screen.terminal.width == 20
    assert not screen.terminal.erases
    screen.environ["NO_COLOR"] = "1"
    assert not screen.terminal.colour
    assert screen.terminal.interactive
    screen.environ["TERM"] = "dumb"
    assert not screen.terminal.interactive


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_empty_no_color_is_no_wish(no_colour):
    assert Screen(NO_COLOR=no_colour).terminal.colour == (not no_colour)


def test_a_pipe_is_no_terminal():
    pipe = Terminal(io.StringIO(), io.StringIO(), {"TERM": "xterm"}, Window())
    assert [pipe.interactive, pipe.colour, pipe.shown, pipe.erases] == [False] * 4
    assert pipe.size == (80, 24)
    typed = Terminal(Window(), Window(), {"TERM": "xterm"}, io.StringIO())
    assert not typed.interactive
    assert typed.colour


def test_the_size_of_a_window():
    ends = os.openpty()
    with os.fdopen(ends[0], "rb"), os.fdopen(ends[1], "w") as slave:
        terminal = Terminal(slave, slave, {"COLUMNS": "70"}, slave)
        assert terminal.size == (70, 24)  # a window without a size
        termios.tcsetwinsize(slave.fileno(), (30, 100))
        assert terminal.size == (100, 30)
        assert terminal.interactive


def test_standard_streams_are_found_when_asked_for(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    Terminal.of().write("here")
    assert out.getvalue() == "here"


# Off a terminal, and on plain ones


HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\x00\x7f\x08\r\ne\rf\x0b\x0c\u2028g\x85\t中e\u0301\ud800\n\n tail \n"


def test_notes_are_not_obeyed():
    """Saved messages, names, and errors of servers are noted; styles of the chat's own stay."""
    screen = Screen(columns=80)
    screen.terminal.note(f"{HOSTILE}\033[32mfirst draft\033[0m")
    assert set(re.findall("\x1b.[^a-z]*.", screen.written)) == {"\033[2m", "\033[32m", "\033[0m"}
    assert "a␛]0;title␇b␛[2Jc\\x9b31md" in screen.text
    assert screen.styles("first draft") == {("green", False, False, False)}


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_off_a_terminal_the_answer_is_what_was_made(size):
    out, notes = io.StringIO(newline=""), io.StringIO()
    view = AnswerView(Terminal(out, notes, {"TERM": "xterm"}, Window()), show_drafts=True)
    view.waiting(5000, 10_000)
    view.show(ReplyPiece("first\n", "thought"))
    view.show(ReplyPiece("second", "thought"))
    for piece in cut(HOSTILE, size):
        view.show(ReplyPiece(piece, spans=(Span(piece, 1),)))
    view.finish()
    assert out.getvalue() == HOSTILE
    assert notes.getvalue() == "first\nsecond\nthought for 1 s\n"


def test_off_a_terminal_a_line_is_ended_once():
    out = io.StringIO()
    for text in ("no end", "an end\n"):
        view = AnswerView(Terminal(out, io.StringIO(), {}, None))
        view.show(ReplyPiece(text))
        view.finish()
    assert out.getvalue() == "no end\nan end\n"


def test_off_a_terminal_a_thought_does_not_break_the_answer():
    out = io.StringIO()
    view = AnswerView(Terminal(out, io.StringIO(), {}, None))
    for piece in (ReplyPiece("a"), ReplyPiece("hm", "thought"), ReplyPiece("b")):
        view.show(piece)
    view.finish()
    assert out.getvalue() == "ab\n"


def test_off_a_terminal_thoughts_that_are_not_wanted_are_one_note():
    out, notes = io.StringIO(), Window()
    view = AnswerView(Terminal(out, notes, {"TERM": "xterm"}, None), show_thinking=False)
    view.show(ReplyPiece("hm", "thought"))
    view.finish()
    assert out.getvalue() == ""
    assert notes.getvalue() == "\033[2mthought for 1 s\033[0m\n"


PLAIN = {
    "no colour": ((80, 24), {"NO_COLOR": "1"}),
    "dumb": ((80, 24), {"TERM": "dumb"}),
    "20 columns": ((20, 24), {}),
    "8 columns": ((8, 5), {}),
}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_plain_terminals_get_the_text_as_it_is(kind, size):
    (columns, rows), environ = PLAIN[kind]
    screen = answered(Screen(columns, rows, **environ), DOCUMENT, size)
    assert screen.written == f"before\n{DOCUMENT}\n"
    assert screen.cursor[0] == 0


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_terminals_have_no_drafts_but_in_colour(kind):
    (columns, rows), environ = PLAIN[kind]
    screen = Screen(columns, rows, **environ)
    view = AnswerView(screen.terminal, show_drafts=True)
    view.show(ReplyPiece("abc", spans=(Span("a"), Span("bc", 1))))
    view.finish()
    assert ("\033" in screen.written) == (kind in ("20 columns", "8 columns"))
    assert screen.rows[0] == "abc"


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_terminals_keep_thoughts(kind):
    (columns, rows), environ = PLAIN[kind]
    screen = Screen(columns, rows, **environ)
    view = AnswerView(screen.terminal)
    view.waiting(1000, 5000)
    view.show(ReplyPiece("\nhm", "thought"))
    view.show(ReplyPiece("ok"))
    view.finish()
    written = re.sub(r"\033\[[02]m", "", screen.written)
    folded = kind == "no colour"
    expected = "thought for 1 s\nok\n" if folded else "hm\nthought for 1 s\nok\n"
    assert written.endswith(expected)
    assert ("\033[" in written) == folded
    assert (screen.rows[0] == "hm") == (not folded)


# Markdown


def test_markdown_as_it_looks():
    assert answered(Screen(60, 50), DOCUMENT).text == (
        """\
before
The title

A paragraph with bold, code and a link
(http://example.org/x),
in two lines.

 1. one
 2. two, which is so long that it does not fit into one row
    of a narrow window
     • inner
     • 中文字 and é and 👩👩👧 and ❤
    ```python
    return None  # inner
    ```
 3. three
 • a
 • b

▌ quoted
▌ again

 name  value
 ───────────
 x         1
 長い     22

```python
def f(x):
    \"\"\"A text
    of two lines.\"\"\"

    return x + 1
```
Text behind it.
------------------------------------------------------------
& <b>tag</b> !picture (http://p.example/a.png)

[ref]: http://ref.example

Last
""".replace("e\u0301", "é")
    )


def test_styles_of_markdown():
    screen = answered(Screen(60, 50), DOCUMENT)
    assert screen.styles("The ") == {("default", True, False, True)}
    assert screen.styles("title") == {("default", True, True, True)}
    assert screen.styles("bold") == {("default", True, False, False)}
    assert screen.styles("code") == {("cyan", False, False, False)}
    assert screen.styles("return None") >= {("magenta", False, False, False)}
    assert screen.styles("of two lines.") == {("green", False, False, False)}
    assert screen.styles("Text behind it.") == {("default", False, False, False)}
    assert "\033[2m```python\033[0m\n" in screen.written


@pytest.mark.parametrize("columns", [21, 40, 80])
@pytest.mark.parametrize("rows", [4, 24])
def test_the_screen_is_the_same_however_the_text_is_cut(columns, rows):
    whole = answered(Screen(columns, rows), DOCUMENT, 10_000)
    for size in (1, 3, 17):
        pieces = answered(Screen(columns, rows), DOCUMENT, size)
        assert pieces.cells == whole.cells
        assert pieces.cursor == whole.cursor


LINES = [
    "", "", "   ", "text", "two words", "* item", "- other", "1. one", "2. two", "10) ten", "  - inner", "   more",
    "```", "```python", "~~~~", "x = '''", "'''", "    indented", "# head", "## *head*", "---", "===", "> quote",
    ">> deep", "| a | b |", "|---|---|", "a | b", "--|--", "**bold", "`tick", "[a]: /b", "<div>", "<!--", "-->",
    "中" * 30, "❤️👍🏽🇩🇪", "\ttab", "word " * 30, "\\* \\", "end  ", "- ```js", "  ```", "- [ ] task", "[a](b", "***",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_any_text_however_it_is_cut(seed):
    """Same screen; what was there before stays; nothing of the text is lost; nothing is left below."""
    chance = random.Random(seed)
    text = "\n".join(chance.choices(LINES, k=chance.randint(1, 25))) + chance.choice(["", "\n"])
    columns, rows = chance.choice([21, 33, 80]), chance.choice([3, 8, 24])
    whole = answered(Screen(columns, rows), text, 10_000)
    assert whole.rows[0] == "before"
    assert whole.cursor[0] == 0
    assert whole.below == ""
    for size in (1, chance.randint(2, 9)):
        assert answered(Screen(columns, rows), text, size).cells == whole.cells
    shown = re.sub(r"[^\w]|(?<=\d)\.", "", whole.text)
    for word in re.findall(r"[a-z]{2,}|中+", text):
        assert word in shown


def test_the_block_under_way_is_seen_and_then_replaced():
    screen = Screen(40, 10)
    view = AnswerView(screen.terminal)
    view.show(ReplyPiece("Some **bo"))
    assert screen.rows == ["Some **bo"]
    view.show(ReplyPiece("ld** text\n"))
    assert screen.rows == ["Some **bold** text"]
    view.show(ReplyPiece("\n* i"))
    assert screen.rows == ["Some bold text", "", "* i"]
    view.show(ReplyPiece("tem\n* an"))
    assert screen.rows == ["Some bold text", "", "* item", "* an"]
    view.show(ReplyPiece("other\n"))
    assert screen.rows == ["Some bold text", "", " • item", "* another"]
    view.finish()
    assert screen.rows == ["Some bold text", "", " • item", " • another", ""]


def test_code_longer_than_the_screen_is_coloured_to_its_end():
    lines = [f"    return {i}  # line" for i in range(200)]
    screen = answered(Screen(50, 10), "\n".join(["Code:", "```python", "def f():", *lines, "```", "End."]))
    assert screen.rows == ["before", "Code:", "```python", "def f():", *lines, "```", "End.", ""]
    assert screen.styles("return 199") == {("magenta", *[False] * 3), ("default", *[False] * 3), ("cyan", *[False] * 3)}


def test_a_long_line_of_code_can_be_copied():
    """The terminal breaks it: nothing is written into it."""
    line = "x = " + "y" * 200
    assert f"\033[J{line}\n" in answered(Screen(40, 24), f"```\n{line}\n```").written


def test_words_under_way_stay_whole():
    screen = Screen(21, 24)
    view = AnswerView(screen.terminal)
    for piece in cut(
        "Several words that are not broken, unless_they_are_too_long_for_it  \nand \u4e2d\u6587\u5b57 " * 2, 3
    ):
        view.show(ReplyPiece(piece))
    assert screen.rows[:4] == ["Several words that", "are not broken,", "unless_they_are_too_", "long_for_it"]
    assert screen.rows[4:7] == ["and \u4e2d\u6587\u5b57 Several", "words that are not", "broken,"]


def test_a_block_that_does_not_fit_on_the_screen_stays_as_it_is():
    text = " ".join(f"**word{i}**" for i in range(200))
    screen = answered(Screen(40, 10), f"{text}\n\n**after**")
    assert screen.rows[0] == "before"
    assert "".join(screen.rows[1:-3]).replace(" ", "") == text.replace(" ", "")
    assert screen.rows[-3:] == ["", "after", ""]


def test_code_within_a_long_item_does_not_begin_code_behind_it():
    inner = "\n".join(f"   {i} **x**" for i in range(12))
    screen = answered(Screen(40, 8), f"1. item\n   ```\n{inner}\n\n   more\n   ```\n\n**after**\n")
    assert screen.rows[-3:] == ["", "after", ""]
    assert screen.text.count("```") == 2


@pytest.mark.parametrize("count", range(4, 10))
def test_blocks_about_as_high_as_the_screen(count):
    """None of their rows is left behind, or shown twice."""
    screen = answered(Screen(40, 7), "\n".join(f"row{i}" for i in range(count)) + "\n\n**x**")
    assert screen.rows == ["before", *(f"row{i}" for i in range(count)), "", "x", ""]


def test_emoji_are_not_broken():
    """Each may take one or two columns; at the most, a row takes the whole width."""
    written = answered(Screen(22, 24), "❤️" * 40, 1).written
    assert "\n\ufe0f" not in written
    assert max(row.count("❤") for row in written.split("\r")[0].split("\n")) <= 11


def test_what_a_resize_between_blocks_leaves():
    screen = Screen(40, 10)
    view = AnswerView(screen.terminal)
    view.show(ReplyPiece("**one**\n\n"))
    screen.resize(50, 10)
    view.show(ReplyPiece("**two**\n\n"))
    assert screen.rows == ["one", "", "two", ""]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("3. a\n4. b", [" 3. a", " 4. b"]),
        ("  ```\n  a\n    b\n c\n  ```", ["  ```", "a", "  b", "c", "  ```"]),
        ("See <http://a.example> there", ["See http://a.example", "there"]),
        ("a\n\n\n\nb", ["a", "", "b"]),
    ],
)
def test_small_blocks(text, rows):
    assert answered(Screen(21, 24), text).rows[1:-1] == rows


def test_cells_of_tables_keep_their_ends():
    assert answered(Screen(21, 24), f"| a | b |\n|--|--|\n| {'x' * 30} | y |").text.count("x") == 30


def test_rows_are_not_filled_with_blanks():
    """They would be copied, and broken when the window gets narrower."""
    written = answered(Screen(40, 24), "* item\n  * inner").written
    assert "item\n" in written
    assert written.endswith("inner\n")


def test_lines_of_a_string_do_not_begin_statements():
    screen = answered(Screen(40, 24), "```python\nx = '''\nfor x\nif y\n'''\nfor z\n```")
    assert screen.styles("for x") == screen.styles("if y") == {("green", False, False, False)}
    assert ("magenta", False, False, False) in screen.styles("for z")


def test_wide_characters_are_erased_to_the_last_row():
    """Whatever a terminal takes their width for: rows are never fewer than counted."""
    for text in ("中" * 100, "👩‍👩‍👧" * 15, "❤️" * 40, "🇩🇪" * 30, "e\u0301" * 90, "a中" * 50):
        screen = answered(Screen(33, 24), f"{text}\n\n**x**", 1)
        assert screen.rows[0] == "before"
        assert screen.rows[-3:] == ["", "x", ""]
        flat = re.sub("[\u200d\ufe0f\n]", "", screen.text.removeprefix("before"))
        assert flat == re.sub("[\u200d\ufe0f]", "", text).replace("e\u0301", "é") + "x"


@pytest.mark.parametrize("columns", [25, 60])
@pytest.mark.parametrize("at", [3, 30, 100, 170, 200])
def test_a_resize_in_the_middle(columns, at):
    """What was there stays, what is under way may stay as it is, and what follows is as wide as the window."""
    text = "First **block** of words.\n\n" + "middle " * 20 + "\n\n* last\n* item\n\nEnd **here**"
    screen = Screen(40, 30)
    screen.terminal.write("before\n")
    view = AnswerView(screen.terminal)
    for piece in cut(text[:at], 3):
        view.show(ReplyPiece(piece))
    screen.resize(columns, 30)
    for piece in cut(text[at:], 3):
        view.show(ReplyPiece(piece))
    view.finish()
    assert screen.rows[0] == "before"
    assert screen.rows[-3:] == ["", "End **here**" if at == 200 else "End here", ""]
    assert screen.text.count("First") == 1
    if columns > 40:  # pyte cuts rows off that are too long, where terminals break them anew
        assert "".join(screen.rows).replace(" ", "").count("middle") == 20
    assert screen.below == ""


# Hostile text


def controls(written: str) -> set[str]:
    """Control characters, without the sequences that the view itself writes."""
    own = re.sub(r"\033\[(?:[\d;]*m|\d+[AD]|J|2?K)|\r(?=\033\[)", "", written)
    return {character for character in own if not character.isprintable() and character not in "\n\t \u200d\ufe0f"}


@pytest.mark.parametrize("options", [{}, {"markdown": False}, {"show_drafts": True}])
@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"COLUMNS": "20"}])
def test_control_characters_do_not_reach_a_terminal(options, environ):
    ways = [
        "{}",
        "# {}",
        "* {}",
        "> {}",
        "`{}`",
        "[{}]({})",
        "```{}\n{}\n```",
        "|{}|\n|--|\n|{}|",
        "    {}",
        "<{}>",
        "&#27;[2J",
    ]
    every = "".join(map(chr, [*range(9), *range(11, 32), *range(127, 160)])) + HOSTILE.replace("\n", "")
    for way in ways:
        for size in (1, 1000):
            screen = Screen(**environ)
            view = AnswerView(screen.terminal, **options)
            view.show(ReplyPiece(every, "thought"))
            for piece in cut(way.replace("{}", every), size):
                view.show(ReplyPiece(piece, spans=(Span(piece, 2),)))
            view.finish()
            assert controls(screen.written) == set()
            assert "\033[2J" not in screen.written
            assert "␛" in screen.text or way == ways[-1]


def test_every_control_character_is_told_apart():
    codes = [*range(9), *range(11, 32), *range(127, 160)]
    shown = {made_visible(chr(code)) for code in codes}
    assert len(shown) == len(codes)
    assert made_visible("\x1b[0m\t\n") == "␛[0m\t\n"


def test_lines_that_end_in_cr_and_lf():
    assert answered(Screen(40, 10), "one\r\n\r\n* two\r\n* a\rb", 1).rows == [
        "before",
        "one",
        "",
        " • two",
        " • a␍b",
        "",
    ]


def test_numeric_entities_are_no_way_around():
    screen = answered(Screen(40, 10), "a &#27;[31mb &#7; &#155;31m &#8232; &#12; &#13;")
    assert controls(screen.written) == set()


# Long answers


def test_the_work_grows_with_the_length_only(monkeypatch):
    """Lines that are parsed, and characters of code that are read, per line of text."""
    read = SimpleNamespace(lines=0, characters=0)

    def counting(lines, real=markdown.blocks):
        read.lines += len(lines)
        return real(lines)

    def last(self, lines, real=code.CodeLines._last):
        read.characters += sum(map(len, lines))
        return real(self, lines)

    monkeypatch.setattr(markdown, "blocks", counting)
    monkeypatch.setattr(code.CodeLines, "_last", last)
    count = 400
    for line in ("words", "* item", "> quote", "| a | b |", "1. one\n\n   more"):
        read.lines = 0
        answered(Screen(80, 24), f"{line}\n" * count, 100)
        assert read.lines < 12 * count
    for line in ("x = 1", "  {", "'''", "/* ", "  (x"):
        read.characters = 0
        answered(Screen(80, 24), "```python\n" + f"{line}\n" * count + "```", 100)
        assert 0 < read.characters < (2 if line == "x = 1" else 50) * count * len(line)


# Drafts


def test_drafts_are_told_apart():
    screen = Screen(80, 24)
    view = AnswerView(screen.terminal, show_drafts=True)
    words = ["target", "one", "two", "three", "four", "five", "six", "seven"]
    spans = tuple(Span(f"{word} ", n) for n, word in enumerate(words))
    view.show(ReplyPiece("".join(span.text for span in spans), spans=spans))
    view.show(ReplyPiece("**no spans**"))
    view.finish()
    styles = [screen.styles(word) for word in words]
    assert styles[0] == {("default", False, False, False)}
    assert all(len(each) == 1 for each in styles)
    without_colour = [next(iter(each))[1:] for each in styles[:7]]
    assert len(set(without_colour)) == 7
    assert styles[7] == styles[6]
    assert screen.text == " ".join(words) + " **no spans**\n"


def test_the_styles_of_drafts_end_with_their_lines():
    screen = Screen(40, 10)
    AnswerView(screen.terminal, show_drafts=True).show(ReplyPiece("a\n\nb", spans=(Span("a\n\nb", 1),)))
    assert screen.written == "\033[32;4ma\033[0m\n\n\033[32;4mb\033[0m"


def test_drafts_however_they_are_cut():
    text, chance = DOCUMENT + HOSTILE, random.Random(4)
    drafts = [chance.randint(0, 3) for _ in range(0, len(text), 4)]
    spans = [Span(piece, draft) for piece, draft in zip(cut(text, 4), drafts, strict=True)]
    cells = []
    for size in (1, 3, 1000):
        screen = Screen(40, 10)
        view = AnswerView(screen.terminal, show_drafts=True)
        for i in range(0, len(spans), size):
            some = tuple(spans[i : i + size])
            view.show(ReplyPiece("".join(span.text for span in some), spans=some))
        view.finish()
        cells.append(screen.cells)
    assert cells[0] == cells[1] == cells[2]


def test_the_legend_has_the_styles_of_tokens():
    screen = Screen(200, 24)
    screen.terminal.write(legend(3) + "\n")
    view = AnswerView(screen.terminal, show_drafts=True)
    view.show(ReplyPiece("x y z", spans=(Span("x", 1), Span(" "), Span("y", 2), Span(" "), Span("z", 3))))
    assert screen.rows[0] == "target, first draft, second draft, third draft"
    for name, token in (("first draft", "x"), ("second draft", "y"), ("third draft", "z")):
        assert screen.styles(name) == {styles_of(screen, token)}
    assert re.sub(r"\033\[[\d;]*m", "", legend(9)).endswith("fifth draft, sixth draft and later")
    assert legend(0) == "target"


def styles_of(screen: Screen, character: str) -> tuple[str, bool, bool, bool]:
    (cell,) = (cell for cell in screen.cells[1] if cell.data == character)
    return cell.fg, cell.bold, cell.italics, cell.underscore


# Thoughts, and what comes before


@dataclass
class Watched:
    """A view of a screen, and its clock."""

    screen: Screen = field(default_factory=lambda: Screen(40, 10))
    show_thinking: bool = True

    def __post_init__(self):
        self.clock = Clock()
        self.view = AnswerView(self.screen.terminal, show_thinking=self.show_thinking, clock=self.clock)

    def think(self, text: str, seconds: float = 0.0) -> None:
        for piece in cut(text, 3):
            self.view.show(ReplyPiece(piece, "thought"))
        self.clock.now += seconds

    @property
    def rows(self) -> list[str]:
        return self.screen.rows


def test_a_thought_is_dim_and_folded():
    watched = Watched()
    watched.screen.terminal.write("before\n")
    watched.think("Let me see, what was it that was asked for here? 中文\nYes.\n", 3.2)
    assert watched.rows == ["before", "Let me see, what was it that was asked", "for here? 中文", "Yes."]
    assert "\033[2mLet\033[0m" in watched.screen.written
    watched.view.show(ReplyPiece("It is **so**.\n\n"))
    assert watched.rows == ["before", "thought for 3 s", "It is so.", ""]
    watched.think("Again", 75)
    watched.view.show(ReplyPiece("Really."))
    watched.view.finish()
    assert watched.rows == ["before", "thought for 3 s", "It is so.", "thought for 1 min 15 s", "Really.", ""]
    assert watched.screen.below == ""


def test_a_thought_longer_than_the_screen_stays():
    watched = Watched()
    watched.think("".join(f"line {i}\n" for i in range(30)), 12)
    watched.view.show(ReplyPiece("So."))
    watched.view.finish()
    assert watched.rows == [*(f"line {i}" for i in range(30)), "thought for 12 s", "So.", ""]


def test_a_thought_whose_window_is_resized_stays():
    watched = Watched()
    watched.screen.terminal.write("before\n")
    watched.think("some words", 1)
    watched.screen.resize(50, 10)
    watched.think(" more")
    watched.view.waiting(500, 1000)  # has ended
    watched.view.finish(cancelled=True)
    assert watched.rows == ["before", "some words more", "stopped thinking after 1 s", ""]


def test_a_thought_that_is_not_shown_gives_signs():
    watched = Watched(show_thinking=False)
    watched.think("secret")
    assert watched.rows == ["thinking..."]
    watched.clock.now = 4.0
    watched.think("secret")
    assert watched.rows == ["thinking... 4 s"]
    watched.view.show(ReplyPiece("Answer"))
    watched.view.finish()
    assert watched.rows == ["thought for 4 s", "Answer", ""]
    assert "secret" not in watched.screen.written.replace("\n", "")


def test_the_progress_of_a_long_prompt_is_one_line():
    screen = Screen(40, 10)
    view = AnswerView(screen.terminal)
    view.waiting(0, 100)
    assert screen.written == ""
    for done in range(0, 10_000, 1000):
        view.waiting(done, 10_000)
    assert screen.rows == ["reading the prompt: 9,000 of 10,000 tok"]
    view.show(ReplyPiece("Answer"))
    view.waiting(10_000, 10_000)
    view.finish()
    assert screen.rows == ["Answer", ""]


@pytest.mark.parametrize("begin", [lambda view: None, lambda view: view.waiting(500, 1000)])
def test_nothing_was_answered(begin):
    screen = Screen(40, 10)
    view = AnswerView(screen.terminal)
    begin(view)
    view.finish(cancelled=True)
    assert screen.rows == [""]


# The line behind an answer


def reply(reason="stop", *, usage=None, prompt=1310, cached=1204, finished=True, **seconds):
    usage = usage or Usage(completion_tokens=201, drafted=300, accepted=150, rounds=67)
    seconds = {"queued": 0.05, "prompt": 0.2, "generation": 4.0} | seconds
    end = Finished(0, FinishReason(reason), None, usage, **seconds) if finished else None
    return SimpleNamespace(
        finished=end, finish_reason=reason if finished else "cancelled",
        prompt_tokens=prompt, cached_tokens=cached, token_ids=(1,) * 12,
    )  # fmt: skip


def test_one_line_on_an_answer():
    assert statistics(reply()) == (
        "[201 tokens, 50.0 per second, 3.00 per round, 50% of drafts accepted; first token after 0.25 s; "
        "1,204 of 1,310 prompt tokens reused]"
    )


def test_without_drafts_and_without_measures():
    plain = Usage(completion_tokens=1, rounds=1)
    assert statistics(reply(usage=plain, generation=0.0, prompt=0)) == "[1 token; first token after 0.25 s]"
    once = Usage(completion_tokens=3, drafted=2, accepted=2, rounds=1)  # all at once: no time passed behind the first
    assert "per second" not in statistics(reply(usage=once, generation=0.001))
    assert statistics(reply(finished=False)) == "[12 tokens; 1,204 of 1,310 prompt tokens reused; stopped]"
    assert statistics(reply(finished=False, prompt=0)) == "[12 tokens; stopped]"


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({}, "cut off by --max-tokens"),
        ({"max_tokens": 201}, "cut off by --max-tokens"),
        ({"max_tokens": 201, "context": 4096}, "cut off by --max-tokens"),
        ({"max_tokens": 5000, "context": 1511}, "the context is full"),
        ({"max_tokens": 5000, "context": 4096}, "the memory is full"),
    ],
)
def test_why_an_answer_was_cut_off(limits, why):
    assert statistics(reply("length"), **limits).endswith(f"; {why}]")
    assert why not in statistics(reply(), **limits)


def test_styles_differ_pairwise():
    """Each place's style is one of its own, so that neighbours in a round are told apart."""
    parts = legend(6).split(", ")
    assert all(one.split("m")[0] != other.split("m")[0] for one, other in pairwise(parts))


@pytest.mark.parametrize(
    ("line", "width", "rows"),
    [
        ("one two three", 13, ["one two three"]),
        ("one two three", 12, ["one two", "three"]),
        ("one two three", 7, ["one two", "three"]),
        ("one two three", 3, ["one", "two", "three"]),
        ("  indented words", 10, ["  indented", "words"]),
        ("unbreakable", 4, ["unbreakable"]),
        ("a \033[1mb\033[0m c", 3, ["a \033[1mb\033[0m c"]),
        ("", 5, [""]),
    ],
)
def test_lines_are_broken_between_words(line, width, rows):
    assert broken(line, width).split("\n") == rows
