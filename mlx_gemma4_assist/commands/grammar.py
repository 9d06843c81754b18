"""What an answer must be: a JSON schema, a regular expression or a grammar, from the command line."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import GenerationOptions
from .streams import read_input

if TYPE_CHECKING:
    from ..engine.pair import Checkpoint
    from ..media.prepared import PreparedPrompt


@dataclass(frozen=True)
class GrammarChoice:
    """What holds the answer; one of the three at most."""

    json_schema: Annotated[
        Path | None, typer.Option("--json-schema", help="The answer is JSON of the schema in this file, or -.")
    ] = None
    regex: Annotated[
        str | None, typer.Option("--regex", help="The answer is what this expression matches as a whole.")
    ] = None
    lark: Annotated[
        Path | None,
        typer.Option("--lark", help="The answer is what the grammar in this file gives, in llguidance's Lark, or -."),
    ] = None

    def over(self, options: GenerationOptions) -> GenerationOptions:
        """The options with what was chosen, checked as far as that goes without a tokenizer.

        Raises:
            InputError: a file that cannot be read, a grammar that is not supported, llguidance is not installed.
        """
        if self == GrammarChoice():
            return options
        from ..text.grammar import check_grammar

        schema, lark = (None if path is None else read_input(path) for path in (self.json_schema, self.lark))
        held = replace(options, json_schema=schema, regex=self.regex, lark=lark)
        check_grammar(held)
        return held


def check_with(checkpoint: "Checkpoint", prompt: "PreparedPrompt", options: GenerationOptions) -> None:
    """Refuse, before weights are read, a grammar that does not go with the checkpoint's tokens.

    Raises:
        InputError: with the reason.
    """
    if options.grammar is not None:
        processor = checkpoint.processor
        processor.grammar(options, prompt.tokens, processor.eos_token_ids, checkpoint.config.vocab_size)
