"""Running a command: one clear line for bad input, no traceback."""

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn, cast

import typer

from .. import __version__
from ..errors import InputError, OptionError, first_line
from ..options import flags
from .streams import drop_output, note, prepare_streams

# typer carries a copy of click of its own; its errors are reached through the one that typer exports.
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__base__)

BAD_INPUT = 2
INTERRUPTED = 130
VALUE_OPTIONAL = ("--resume",)
HELP = "Gemma 4 with its assistant, on Apple silicon: exact speculative decoding."


def run_one(command: Callable[..., Any], name: str | None = None) -> NoReturn:
    """Run a single command, as ``python -m mlx_gemma4_assist.NAME`` does; ``name`` is how else it was called."""
    app = _app()
    app.command()(command)
    _run(app, name or f"python -m mlx_gemma4_assist.{command.__name__}")


def run_all(commands: Mapping[str, Callable[..., Any]]) -> NoReturn:
    """Run one of several commands by its name."""
    app = _app()
    app.callback()(_common)
    for name, command in commands.items():
        app.command(name)(command)
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    _run(app, "python -m mlx_gemma4_assist")


def _app() -> typer.Typer:
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,  # plain help wraps where tables cut names off
        help=HELP,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mlx_gemma4_assist {__version__}")
        raise typer.Exit


def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Keeps commands under their names even when there is only one."""


def _run(app: typer.Typer, name: str) -> NoReturn:
    try:
        prepare_streams()
        code = app(_with_values(sys.argv[1:]), standalone_mode=False, prog_name=name)
        sys.stdout.flush()  # here, where it may fail
    except OptionError as error:
        code = _complain(error.spelled(_AsTyped()))
    except InputError as error:
        code = _complain(str(error))
    except UsageError as error:
        code = _complain(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        code = _nobody_reads()
    except SystemExit as ended:  # so typer and rich end where nobody reads
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        code = _nobody_reads()
    except OSError as error:
        drop_output()
        code = _complain(f"cannot read or write {error.filename or 'a stream'}: {error.strerror or first_line(error)}")
    sys.exit(code if isinstance(code, int) else 0)


def _with_values(words: list[str]) -> list[str]:
    """Words of a command line, with an empty value for options that may stand without one, which typer has none of."""
    alone = [after.startswith("-") for after in words[1:]] + [True]
    return [f"{word}=" if word in VALUE_OPTIONAL and alone[i] else word for i, word in enumerate(words)]


def _nobody_reads() -> int:
    """Whoever was reading, as in "| head", has enough."""
    drop_output()
    return 0


def _complain(message: str) -> int:
    note(f"error: {' '.join(message.split())}")
    return BAD_INPUT


class _AsTyped(dict[str, str]):
    """Options by their Python names as the command line spells them."""

    def __missing__(self, name: str) -> str:
        return flags(name)[0].partition("/")[0]
