"""Options that several commands share, named as in mlx-lm where it has them."""

from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option("--model", help="A Hub repo, a local folder, or tiny: the embedded pair, which needs no network.")
]
AssistantModel = Annotated[
    str | None,
    typer.Option("--assistant-model", help="The drafter; the matching one unless told, none to go without."),
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16 instead of what the checkpoint says.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-m", help="The most tokens to generate.")]
Temp = Annotated[float, typer.Option("--temp", help="Sampling temperature; 0 is greedy.")]
TopP = Annotated[
    float, typer.Option("--top-p", help="Keep the likeliest tokens that together reach this; 1 keeps all.")
]
TopK = Annotated[int, typer.Option("--top-k", help="Keep this many of the likeliest tokens; 0 keeps all.")]
MinP = Annotated[float, typer.Option("--min-p", help="Keep tokens this fraction as likely as the likeliest.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Makes sampling repeatable.")]
NumAssistantTokens = Annotated[
    int | None,
    typer.Option("--num-assistant-tokens", help="Drafts per round; 0 decodes plainly. Learned unless told."),
]
DraftTemperature = Annotated[
    float | None,
    typer.Option(
        "--draft-temperature",
        help="How drafts are drawn when sampling; 0 takes the likeliest. Default: 0 with a seed, else 1.",
    ),
]
PrefillStepSize = Annotated[int, typer.Option("--prefill-step-size", help="Tokens of the prompt computed at once.")]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="Run rounds under mx.compile; on a CPU that takes g++. Default: on Metal."
    ),
]
