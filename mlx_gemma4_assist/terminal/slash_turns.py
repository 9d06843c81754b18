"""Commands on what was said: taking back, trying again, branches, the system prompt."""

from collections.abc import Sequence

from ..errors import InputError
from .attached import sources, text_of
from .numbers import whole_number
from .talk import Edited, Talk

NONE = "none"
LONGEST = 60  # characters of a message that are shown of it


def reset(talk: Talk, argument: str) -> None:
    """Begin a new conversation, beside the one that is kept."""
    talk.session.reset()
    talk.keeping.anew()
    talk.forget()
    talk.say("A new conversation.")


def undo(talk: Talk, argument: str) -> None:
    """Take back what is to go with the next message; else the last message and its answer."""
    if talk.attached:
        talk.attached = []
        talk.say("Nothing goes with the next message any longer.")
        return
    done = talk.session.undo()
    talk.last, talk.used = None, 0
    talk.keeping.save(talk.session)
    talk.say("The last exchange is taken back." if done else "There is nothing to take back.")


def retry(talk: Talk, argument: str) -> None:
    """Answer the last message once more."""
    talk.answer(talk.session.retry)


def edit(talk: Talk, argument: str) -> None:
    """Bring a message back to the prompt, or put another text in the place of the last."""
    asked = [message for message in talk.session.messages if message["role"] == "user"]
    if not asked:
        raise InputError("nothing has been said yet")
    turn = whole_number(argument)
    if turn is not None and not 1 <= turn <= len(asked):
        raise InputError(f"there is no message {turn}: the conversation has {len(asked)}")
    place = len(asked) if turn is None else turn
    message = asked[place - 1]
    talk.edited = Edited(turn, sources(message))
    if argument and turn is None:
        talk.message(argument)
    else:
        talk.draft = text_of(message)
        talk.say(f"What is sent next takes the place of message {place}; an empty line leaves it as it is.")


def branches(talk: Talk, argument: str) -> None:
    """List branches."""
    lines = [
        f"{'*' if branch.current else ' '} {branch.number}  {branch.messages} messages  {branch.title}"
        for branch in talk.session.session.branches()
    ]
    talk.say("\n".join(lines))


def branch_numbers(talk: Talk) -> Sequence[str]:
    """Of all branches."""
    return [str(branch.number) for branch in talk.session.session.branches()]


def switch(talk: Talk, argument: str) -> None:
    """Go on with another branch."""
    number = whole_number(argument)
    if number is None:
        raise InputError("/switch takes the number of a branch: /branches lists them")
    talk.session.session.switch(number)
    talk.forget()
    talk.keeping.save(talk.session)
    said = [line for message in talk.session.messages for line in [" ".join(text_of(message).split())]]
    talk.say(f"This is branch {argument}. It ends: {said[-1][-LONGEST:]}" if said else f"This is branch {argument}.")


def system(talk: Talk, argument: str) -> None:
    """Show the system prompt, or set another one."""
    if not argument:
        talk.say(talk.session.system_prompt or "There is no system prompt.")
        return
    talk.session.system_prompt = None if argument.lower() == NONE else argument
    talk.keeping.save(talk.session)
    there = talk.session.system_prompt is not None
    talk.say("The system prompt is another one from now on." if there else "There is no system prompt from now on.")
