"""What holds a turn: a grammar, tools that must or must not be called, how long the model may think."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError, OptionError
from ..options import GenerationOptions
from .call_grammar import call_grammar
from .grammar import Grammar
from .thoughts import Limit, TextState
from .tool_state import ToolRules, ToolState

if TYPE_CHECKING:
    from .processor import Processor

NO_LIMIT = Limit()


@dataclass(frozen=True, kw_only=True)
class TurnWishes:
    """What a request says of the turn, beside its options.

    Attributes:
        tools: as OpenAI has them; those whose function is ``strict`` are called by their schema only.
        tool_choice: ``none``, ``auto``, ``required`` or ``named``.
        named_tool: which one must be called, with ``named``.
        parallel_tool_calls: whether there may be more than one call.
        limit: of thoughts.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    named_tool: str | None = None
    parallel_tool_calls: bool = True
    limit: Limit = NO_LIMIT

    @property
    def must_call(self) -> bool:
        """Whether there is nothing but calls."""
        return self.tool_choice in ("required", "named")

    @property
    def functions(self) -> list[Mapping[str, Any]]:
        """Of the tools that may be called.

        Raises:
            InputError: one must be called, and there is none, or none of this name.
        """
        functions = [tool["function"] for tool in self.tools]
        if self.tool_choice == "named":
            functions = [each for each in functions if each["name"] == self.named_tool]
        if self.must_call and not functions:
            named = f" with the name {self.named_tool!r}" if self.tool_choice == "named" else ""
            raise InputError(f"a tool must be called, but the request has none{named}")
        return functions


def turn_constraint(
    processor: "Processor",
    options: GenerationOptions,
    prompt: Sequence[int],
    stops: Collection[int],
    vocabulary: int,
    wishes: TurnWishes,
) -> Callable[[], TextState] | None:
    """What makes the constraint of a turn, at its beginning; None if nothing holds it.

    Args:
        processor: of the checkpoint.
        options: which may have a grammar. Beside tools that may be called, a turn is calls or what the grammar gives.
        prompt: token ids; they say whether a thought comes before the answer, or has begun.
        stops: the ids that end the turn.
        vocabulary: of the target.
        wishes: what else the request says.

    Raises:
        InputError: llguidance is not installed, or does not support a grammar; a tool's schema has something that
            cannot be held; a tool must be called, and there is none, or the checkpoint has no tokens for calls.
    """
    rules = _rules(processor, options, stops, vocabulary, wishes)
    free = rules.allowed and rules.parallel and rules.calls is None and rules.text is None
    if free and (wishes.limit == NO_LIMIT or processor.thinking(prompt) is None):
        return None
    return processor.behind_thoughts(lambda: ToolState(rules), prompt, stops, wishes.limit)


def _rules(
    processor: "Processor",
    options: GenerationOptions,
    stops: Collection[int],
    vocabulary: int,
    wishes: TurnWishes,
) -> ToolRules:
    markers, text = processor.markers, None
    if options.grammar is not None and not wishes.must_call:
        text = Grammar.of(options, processor.grammar_tokens, stops, vocabulary)
    has_tools = bool(wishes.tools) and wishes.tool_choice != "none"
    return ToolRules(
        begin=markers.call,
        end=markers.end_of_call,
        stops=frozenset(stops),
        calls=_calls(processor, stops, vocabulary, wishes),
        text=text,
        allowed=has_tools if wishes.tools or text is not None else True,
        required=wishes.must_call,
        parallel=wishes.parallel_tool_calls or not has_tools,
    )


def _calls(processor: "Processor", stops: Collection[int], vocabulary: int, wishes: TurnWishes) -> Grammar | None:
    """The grammar of calls; None where they are free."""
    functions, markers = wishes.functions, processor.markers
    free = [] if wishes.must_call else [each["name"] for each in functions if each.get("strict") is not True]
    if wishes.tool_choice == "none" or len(free) == len(functions):
        return None
    if markers.call is None or markers.end_of_call is None or markers.quote is None:
        raise InputError("the checkpoint has no tokens for calls of tools")
    definition = call_grammar(functions, free, markers.quote, markers.end_of_call)
    made = Grammar.of_lark(definition, processor.grammar_tokens, stops, vocabulary)
    if made.refusal:
        raise OptionError("calls cannot be held to the parameters of {tools}: {reason}", reason=made.refusal)
    return made
