"""Real pictures, sound and video through processor, towers and generation, and from the command line."""

import json
import re
import threading
import warnings

import mlx.core as mx
import pytest
from support import media as media_helpers
from support.commands import runner
from support.decoding import random_pair
from support.multimodal import write_pair

from mlx_gemma4_assist import InputError, Pair, load, load_assistant, load_media, stream_generate
from mlx_gemma4_assist.commands.generate import generate
from mlx_gemma4_assist.commands.media import MediaChoice, encoded, find_media, prepare
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.media.processor import MediaProcessor
from mlx_gemma4_assist.text.messages import Media

QUESTION = "What is shown in this image?"


@pytest.fixture(scope="module", params=["gemma4", "gemma4_unified"])
def checkpoint(request, tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp(request.param) / "pair", unified=request.param == "gemma4_unified")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return media_helpers.write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def answer(checkpoint):
    """Reads media; tells the prompt, and what is answered to it, with a number of drafts."""
    target, processor = load(checkpoint)
    assistant, read = load_assistant(f"{checkpoint}-assistant"), load_media(checkpoint, processor)

    def of(media, drafts=(0,)):
        prompt, texts = read(QUESTION, media), []
        for count in drafts:
            options = {"max_tokens": 24, "temperature": 1.0, "seed": 3, "num_assistant_tokens": count}
            made = stream_generate(target, processor, prompt, assistant if count else None, **options)
            texts.append([response.token for response in made])
        return prompt, *texts

    return of


def photograph_of_the_reference(checkpoint) -> int:
    """Tokens that transformers' processor makes of the photograph and its question, with our question in its place."""
    kind = json.loads((checkpoint / "config.json").read_text())["model_type"]
    golden = json.loads((media_helpers.GOLDENS / kind / "golden.json").read_text())
    tokenize = MediaProcessor.from_pretrained(checkpoint).text.tokenize
    return golden["photo"]["input_ids"][1] - len(tokenize("Who is this?")) + len(tokenize(QUESTION))


def test_a_photograph_is_answered(checkpoint, answer, sources):
    """Soft tokens as many as the reference's processor has for it, see tests/goldens/media."""
    prompt, plain, assisted = answer(Media(pictures=(sources["photo"],)), (0, 3))
    (photo,) = prompt.media
    assert len(prompt.tokens) == photograph_of_the_reference(checkpoint)
    assert photo.end - photo.start == 270
    assert mx.abs(photo.embeddings).max().item() > 0
    assert assisted == plain
    _, other = answer(Media(pictures=(sources["wide"],)))
    assert other != plain


def test_everything_at_once(answer, sources):
    media = Media(
        (sources["wide"], sources["tall"]), (sources["stereo"],), ({"frames": sources["short_video"], "fps": 8},)
    )
    prompt, plain, assisted = answer(media, (0, 3))
    assert len(prompt.media) >= 5
    assert assisted == plain


def generated(capsys, checkpoint, **options):
    """What the command says with ``--json``."""
    options = {"prompt": QUESTION, "max_tokens": 12} | options
    assert generate(model=str(checkpoint), as_json=True, **options) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_takes_media(checkpoint, sources, capsys):
    whole = generated(capsys, checkpoint, image=[sources["photo"], sources["wide"]], audio=[sources["mono"]])
    bare = generated(capsys, checkpoint)
    assert whole["prompt_tokens"] > bare["prompt_tokens"] + 270
    brief = generated(capsys, checkpoint, image=[sources["photo"]], max_soft_tokens=70, system_prompt="Be brief.")
    assert bare["prompt_tokens"] + 40 < brief["prompt_tokens"] < 200


def test_a_chat_reads_pictures_in_as_many_tokens(checkpoint, sources, monkeypatch, capsys):
    """For all of the conversation: of the second picture, too."""
    run, lines = runner(monkeypatch, capsys), f"Who? {sources['photo']}\nAnd {sources['tall']}?\n".encode()
    read = []
    for small in ((), ("--max-soft-tokens", "70")):
        done = run("chat", "--model", str(checkpoint), "-m", "2", "--seed", "3", *small, stdin=lines)
        assert done.returncode == 0, done.stderr
        read.append([int(number) for number in re.findall(r" of (\d+) prompt tokens", done.stderr)])
    (whole, both), (few, twice) = read
    assert 40 < few < 120 < 270 < whole
    assert few + 40 < twice < both - whole + few


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"image": ["nowhere.png"]}, "nowhere.png"),
        ({"image": [__file__]}, "picture"),
        ({"max_soft_tokens": 70}, "there are none"),
        ({"image": ["x.png"], "max_soft_tokens": 71}, "70"),
        ({"audio": [__file__]}, "sound"),
    ],
)
def test_one_line_for_what_is_no_picture(checkpoint, capsys, options, told):
    with pytest.raises(InputError, match=told) as raised:
        generated(capsys, checkpoint, **options)
    assert len(str(raised.value).splitlines()) == 1


def test_a_text_model_takes_none(capsys):
    with pytest.raises(InputError, match="text model"):
        generated(capsys, "tiny", image=[str(media_helpers.PHOTO)])


def test_messages_name_their_own(checkpoint, sources, capsys, tmp_path):
    parts = [{"type": "image", "path": sources["photo"]}, {"type": "text", "text": QUESTION}]
    file = tmp_path / "messages.json"
    file.write_text(json.dumps([{"role": "user", "content": parts}]))
    assert generated(capsys, checkpoint, prompt=None, messages=file)["prompt_tokens"] > 270
    with pytest.raises(InputError, match="messages name their media themselves"):
        generated(capsys, checkpoint, prompt=None, messages=file, image=[sources["photo"]])


def test_a_placeholder_typed_into_the_prompt_is_text(checkpoint, sources, capsys):
    small = {"image": [sources["photo"]], "max_soft_tokens": 70, "max_tokens": 2}
    typed = generated(capsys, checkpoint, prompt="<|image|> and what else?", **small)
    plain = generated(capsys, checkpoint, prompt="and what else?", **small)
    assert plain["prompt_tokens"] < typed["prompt_tokens"] < plain["prompt_tokens"] + 20
    images = [sources["photo"], sources["wide"]]
    with pytest.raises(InputError, match=r"says <\|image\|> 1 time, but has 2 pictures"):
        generated(capsys, checkpoint, prompt="<|image|> what?", image=images, ignore_chat_template=True)


def test_a_text_asks_for_no_towers():
    """The pair has no checkpoint that towers could be read from: asking for them would fail."""
    pair, checkpoint, nothing = Pair(*random_pair()), Checkpoint.open("tiny"), MediaChoice()
    for content in (QUESTION, [{"role": "user", "content": QUESTION}]):
        prompt = prepare(checkpoint, find_media(content, nothing), nothing, chat=True)
        assert encoded(pair, prompt) == checkpoint.processor.encode(QUESTION)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"image": ["nowhere.png"]}, "nowhere.png"),
        ({"image": ["https://host.invalid/a.png", "nowhere.png"], "system_prompt": "Be brief."}, "nowhere.png"),
        ({"audio": ["."]}, "is no file"),
        ({"max_soft_tokens": 70}, "there are none"),
        ({"image": [str(media_helpers.PHOTO)], "max_soft_tokens": 71}, "71, expected one of 70"),
    ],
)
def test_refused_before_a_model_is_loaded(capsys, options, told):
    with pytest.raises(InputError, match=told):
        generated(capsys, "no-such/model", **options)


@pytest.fixture(scope="module")
def long_sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sounds") / "long.wav"
    return str(media_helpers.save_wave(path, media_helpers.tone(31, 16_000), 16_000))


def test_a_person_is_told(checkpoint, long_sound, monkeypatch, capsys):
    """Once, though the conversation goes on to have the sound."""
    done = runner(monkeypatch, capsys)(
        *("chat", "--model", str(checkpoint), "-m", "2", "--temp", "0", "--audio", long_sound), stdin=b"What?\nAnd?\n"
    )
    assert done.returncode == 0, done.stderr
    cut = "gemma4_unified" not in (checkpoint / "config.json").read_text()
    assert done.stderr.count("a sound lasts 31 seconds, of which the model hears the first 30\n") == cut
    assert done.stderr.count("prompt tokens reused") == 2


def test_python_users_are_told(checkpoint, long_sound):
    """Once, where they have called; the 12B hears everything."""
    read = load_media(checkpoint)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prompt = read(QUESTION, Media(sounds=(long_sound,)))
    cut = read.processor.config.unified is False
    assert [str(each.message) for each in caught] == list(prompt.notes)
    assert len(prompt.notes) == cut
    assert all("lasts 31 seconds, of which the model hears the first 30" in note for note in prompt.notes)
    assert all((each.category, each.filename) == (UserWarning, __file__) for each in caught)


@pytest.mark.filterwarnings("error")
def test_the_command_tells_its_user(checkpoint, long_sound, capsys):
    assert generate(model=str(checkpoint), prompt=QUESTION, audio=[long_sound], max_tokens=2) == 0
    unified = json.loads((checkpoint / "config.json").read_text())["model_type"] == "gemma4_unified"
    assert capsys.readouterr().err.count("of which the model hears the first 30") == (not unified)


def test_media_read_in_one_thread_are_answered_in_another(checkpoint, sources):
    target, processor = load(checkpoint)
    read, media = load_media(checkpoint, processor), Media(pictures=(sources["photo"],))
    found = []
    thread = threading.Thread(target=lambda: found.append(read("What is shown?", media)))
    thread.start()
    thread.join()
    found.append(read("What is shown?", media))
    there, here = ([r.token for r in stream_generate(target, processor, each, max_tokens=3)] for each in found)
    assert there == here
