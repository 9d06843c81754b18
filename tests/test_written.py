"""Answers come back in the tokens that the model made them of, and say what they said."""

import random
import threading

import pytest
from support.chat_format import TEMPLATES, chat_processor
from support.paths import ASSETS

from mlx_gemma4_assist import Processor
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.server.exchange import ChatRequest, Piece, collected
from mlx_gemma4_assist.server.service import Service
from mlx_gemma4_assist.text.renderer import Renderer
from mlx_gemma4_assist.text.written import MOST_CUT, WrittenAnswers, spelling

USER = {"role": "user", "content": "Hi"}
END = "<turn|>\n<|turn>user\nHi<turn|>\n"


@pytest.fixture(scope="module")
def processors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    made = {form: chat_processor(folder / form, template) for form, template in TEMPLATES.items()}
    return made | {"tiny": Processor.from_pretrained(ASSETS / "tiny")}


@pytest.fixture(scope="module")
def processor(processors):
    return processors["full"]


def says(text, **more):
    return {"role": "assistant", "content": text, **more}


def words(processor):
    """The ids that are text."""
    tokenizer, control = processor.tokenizer.backend_tokenizer, set(processor.control.ids.values())
    return [i for i in range(tokenizer.get_vocab_size()) if i not in control and tokenizer.id_to_token(i) is not None]


def shown_and_ids(processor, memory, messages, **options):
    """The text and the ids of a conversation, with what is remembered."""
    renderer = Renderer(processor, written=memory.find)
    rendered = renderer.render(messages, **options)
    return renderer.shown(rendered.text), processor.tokenize(rendered.text)


def blanks(processor, tokens):
    """How many tokens of white space come first."""
    return next(i for i, token in enumerate(tokens) if processor.decode([token]).strip())


def is_within(some, tokens):
    return any(tokens[i : i + len(some)] == some for i in range(len(tokens)))


@pytest.mark.parametrize("form", ["full", "compact", "tiny"])
@pytest.mark.parametrize("seed", range(30))
def test_random_answers_come_back(processors, form, seed):
    """Whatever white space clients leave around them, in any of three conversations; and nobody sees a difference."""
    processor, draw = processors[form], random.Random(seed)
    memory, plain, ids = WrittenAnswers(processor), WrittenAnswers(processor), words(processor)
    letters = [i for i in ids if processor.decode([i]).strip()]
    written = [[*draw.choices(ids, k=draw.randint(0, 30)), draw.choice(letters)] for _ in range(3)]
    end = processor.tokenize("<turn|>")
    texts = [processor.decode(each) for each in written]
    for each, text in zip(written, texts, strict=True):
        memory.remember([], each + end * draw.randrange(2), text)
    said = [draw.choice((text, text.strip(), f"{text} ", f"\n{text}")) for text in texts]
    messages = [USER, says(said[0]), USER, says([{"type": "text", "text": said[1]}]), USER, says(said[2]), USER]
    shown, tokens = shown_and_ids(processor, memory, messages)
    assert shown == shown_and_ids(processor, plain, messages)[0]
    for each, text in zip(written, texts, strict=True):
        first, last = (
            next(i for i, t in enumerate(some) if processor.decode([t]).strip()) for some in (each, each[::-1])
        )
        core = each[first : len(each) - last]
        if processor.decode(core) == text.strip():
            assert is_within(core, tokens)


def test_white_space_that_templates_trim(processor):
    """The tokens around it are made anew, all others stay."""
    words_of = {name: processor.tokenizer.backend_tokenizer.token_to_id(name) for name in ("▁w", "h", "e", "l", "▁")}
    ids = [words_of[name] for name in ("▁", "▁w", "h", "e", "l", "l", "▁", "▁")]
    memory = WrittenAnswers(processor)
    memory.remember([], ids, "  whell  ")
    assert list(memory.find("  whell")) == [*processor.tokenize("w"), *(words_of[name] for name in "hell")]
    assert list(memory.find("whell")) != processor.tokenize("whell")
    assert list(memory.find("whell  ")) == [*processor.tokenize("w"), *(words_of[name] for name in "hell"), *ids[-2:]]
    assert memory.find("whell   ") is None


def test_thoughts_are_left_out(processor):
    memory, apart = WrittenAnswers(processor), [processor.tokenize(letter)[0] for letter in "hello"]
    thought = processor.tokenize("<|channel>thought\nhm\n<channel|>")
    memory.remember([], [*thought, *apart, *processor.tokenize("<turn|>")], "hello")
    assert list(memory.find("hello")) == apart
    begun = processor.tokenize("<|turn>model\n<|channel>thought\n")
    memory.remember(begun, [*processor.tokenize("hm\n<channel|>"), *apart[::-1]], "olleh")
    assert list(memory.find("olleh")) == apart[::-1]
    memory.remember(begun, processor.tokenize("still thinking"), "")
    shown, tokens = shown_and_ids(processor, memory, [USER, says("hello", reasoning_content="hm"), USER])
    assert is_within(apart, tokens)
    assert "hm" not in shown


def test_bytes_that_spell_a_control_token_stay_text(processors):
    """Also where white space beside them is trimmed, so that a part of what they spell is made into tokens anew."""
    processor, spelled = processors["tiny"], "<turn|>"
    tokenizer = processor.tokenizer.backend_tokenizer
    letters = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in f" {spelled}\n".encode()]
    memory, control = WrittenAnswers(processor), set(processor.control.ids.values())
    memory.recall(spelled, letters)
    assert processor.decode(memory.find(spelled), False) == spelled
    assert control.isdisjoint(memory.find(spelled))


@pytest.mark.parametrize("form", ["full", "tiny"])
@pytest.mark.parametrize("foreign", [2**32 - 1, 10**6])
def test_ids_that_there_are_not_do_not_come_back(processors, form, foreign):
    """A conversation's file may be another model's: ids that spell nothing would get into the prompt."""
    processor = processors[form]
    memory, known = WrittenAnswers(processor), processor.tokenize("x")
    memory.recall("x", [*known, foreign])
    assert memory.find("x") is None


def test_what_a_stop_string_has_cut(processor):
    ids = [processor.tokenizer.backend_tokenizer.token_to_id(name) for name in ("a", "h", "hell", "o")]
    memory = WrittenAnswers(processor)
    memory.remember([], ids, "ahhe")
    assert list(memory.find("ahhe")) == [*ids[:2], *processor.tokenize("he")]


def test_cancelled_answers_leave_room_for_whole_ones(processor):
    apart = [processor.tokenize(letter)[0] for letter in "hello"]
    memory = WrittenAnswers(processor, 80)
    for _ in range(40):
        memory.remember_cut([], [*apart, *apart[::-1]])
    memory.remember([], apart[:4], "hell")
    assert memory.find("hell") == apart[:4]
    assert memory.find("helloo") == [*apart, apart[-1]]
    assert memory.find("hell") == apart[:4]


def test_what_was_cut_off_is_found_by_any_beginning(processor):
    apart = [processor.tokenize(letter)[0] for letter in "hello"]
    memory = WrittenAnswers(processor)
    memory.remember_cut([], [*apart, *apart])
    assert list(memory.find("hel")) == apart[:3]
    assert list(memory.find("hellohe")) == [*apart, *apart[:2]]
    assert list(memory.find("hel")) == apart[:3]
    assert memory.find("hex") is None
    memory.remember_cut([], [])
    for _ in range(MOST_CUT):
        memory.remember_cut([], [apart[0]])
    assert memory.find("hello") is None
    assert list(memory.find("hel")) == apart[:3]


def test_an_answer_is_continued_in_its_tokens(processor):
    apart = [processor.tokenize(letter)[0] for letter in "hello "]
    memory = WrittenAnswers(processor)
    memory.remember([], apart, "hello ")
    for text, ids in (("hello ", apart), ("hello", apart[:-1])):
        _, tokens = shown_and_ids(processor, memory, [USER, says(text)], continue_last=True)
        assert tokens[-len(ids) :] == ids
    tiny = WrittenAnswers(processor)
    _, tokens = shown_and_ids(processor, tiny, [USER, says("hello ")], continue_last=True)
    assert tokens[-3:] != apart[-3:]


@pytest.mark.parametrize("text", ["<|turn>x", "x<|tool_call>call:f{}<tool_call|>", "<|image|>", "a<|turn>b"])
def test_control_tokens_do_not_come_back(processor, text):
    memory = WrittenAnswers(processor)
    memory.remember([], processor.tokenize(text), text)
    assert memory.find(text) is None
    shown, tokens = shown_and_ids(processor, memory, [USER, says(text), USER])
    assert shown == shown_and_ids(processor, WrittenAnswers(processor), [USER, says(text), USER])[0]
    assert processor.tokenize(text) not in [tokens[i : i + 1] for i in range(len(tokens))]


def test_tokens_that_say_something_else(processor):
    memory = WrittenAnswers(processor)
    memory.remember([], processor.tokenize("hello"), "other")
    assert memory.find("other") is None
    assert spelling(processor, processor.tokenize("hello"), "ello") is None


def test_bytes_of_no_character_before_white_space(processor):
    """They have their text only with what follows them; without that they are still their own."""
    ids = [processor.tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in (0x80, 0x9F, 0x8A)]
    space, word = processor.tokenize(" "), processor.tokenize("hello")
    assert spelling(processor, [*word, *ids, *space], "hello���") == [*word, *ids]
    assert spelling(processor, [*space, *ids, *word], "���hello") == [*ids, *word]
    memory = WrittenAnswers(processor)
    memory.remember_cut([], [*word, *ids, *space])
    assert list(memory.find("hello���")) == [*word, *ids]


def test_the_latest_of_one_text_counts(processor):
    apart = [processor.tokenize(letter)[0] for letter in "hello"]
    memory = WrittenAnswers(processor)
    memory.remember([], processor.tokenize("hello"), "hello")
    memory.remember([], apart, "hello")
    assert list(memory.find("hello")) == apart


def test_the_memory_is_bounded(processor):
    memory = WrittenAnswers(processor, most=20)
    texts = ["hello", "there", "we all", "the wall"]
    letters = {text: [processor.tokenize(letter)[0] for letter in text] for text in texts}
    for text in texts[:3]:
        memory.remember([], letters[text], text)
    assert memory.find("hello") is not None
    memory.remember([], letters["the wall"], "the wall")
    assert [memory.find(text) is not None for text in texts] == [True, False, True, True]
    memory.remember_cut([], letters["hello"] * 9)
    assert memory.find("hellohe") is None
    assert [memory.find(text) is not None for text in texts] == [True, False, True, True]
    memory.remember([], letters["hello"] * 9, "hello" * 9)
    assert [memory.find(text) is not None for text in texts] == [False] * 4
    memory.remember([], letters["there"], "there")
    assert memory.find("there") is not None


def test_several_messages_of_one_turn(processor):
    """What the template joins is looked for as a whole; what shows pictures is rendered as it came."""
    apart = [processor.tokenize(letter)[0] for letter in "hello"]
    memory = WrittenAnswers(processor)
    memory.remember([], apart, "hello")
    _, tokens = shown_and_ids(processor, memory, [USER, says("hel "), says(" lo"), USER])
    assert is_within(apart, tokens)
    shows = says([{"type": "text", "text": "hello"}, {"type": "image", "url": "x"}])
    _, tokens = shown_and_ids(processor, memory, [USER, shows, USER])
    assert not is_within(apart, tokens)


# A service


@pytest.fixture(scope="module")
def service():
    service = Service(Checkpoint.open("tiny"))
    yield service
    service.close()


def request(*messages, **options):
    options = {"max_tokens": 60, "temperature": 1.0} | options
    return ChatRequest(model="tiny", messages=messages, options=options, stream=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_client_that_went_away_has_only_a_part(service, seed):
    """Of what was made until the service noticed."""
    events, gone = [], threading.Event()

    def hear(event):
        events.append(event)
        if isinstance(event, Piece) and len(collected(events).choices[0].tokens) >= 30 and not gone.is_set():
            ticket.cancel()
            gone.set()

    first = request(
        USER,
        seed=seed,
        temperature=30.0,
        num_assistant_tokens=0,
        max_tokens=3000,
        logit_bias={1: -99.0, service.tokenize("<turn|>")[0]: -99.0},
    )
    ticket = service.submit(first, hear)
    assert gone.wait(60)
    (some,) = collected(events[: len(events) - 4]).choices
    part, ids = some.answer, [token.id for token in some.tokens]
    again = request(USER, says(part), USER)
    inner = ids[1:-3]  # templates trim white space, and a character may not be whole
    assert is_within(inner, list(service.tokens(again)))
    assert not is_within(inner, list(service.tokenize(part))), "else this says nothing"
    end = f"{part.strip()}<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n"
    assert service.render(again).endswith(end)
