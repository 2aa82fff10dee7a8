"""The command `sam-variants`: its subcommands by name, and every error in one line.

A subcommand's module is imported when it is called, so that `--help` lists all of them without importing any, and
transformers gets to know our classes (`sam_variants.registration`) when it runs, so that its own `--help` needn't wait.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

# Name → one line for the list. The function of that name, or the group of commands, lies in the module of that name in
# this package, with underscores for hyphens.
COMMANDS = {
    "segment": "Segment objects in an image from points and boxes.",
    "everything": "Find everything in images: files, folders, patterns, URLs.",
    "track": "Track objects through a video from points, boxes and masks.",
    "label": "Turn images into a dataset with masks, of any size; it can be stopped and resumed.",
    "label-plan": "Plan the labeling of millions of images: time, cost, machines that vanish.",
    "browse": "Look at a labeled dataset in a browser.",
    "demo": "Show the demo in a browser, from this machine.",
    "models": "List the published checkpoints and which of them are here.",
    "convert": "Turn a checkpoint of any layout into a complete repository folder, and back.",
    "export": "Write a checkpoint as ONNX or as programs of torch.export, checked against the model.",
    "push": "Put a checkpoint on the Hub: weights, processor and card in one commit.",
    "push-space": "Put the demo on the Hub as a Space.",
    "train": "Fine-tune a checkpoint on a dataset of images and masks.",
    "distill": "Teach a small image encoder the embeddings of a large one.",
    "train-tracking": "Teach an image model to track objects, on synthetic clips.",
    "evaluate": "Measure how good a checkpoint's masks are.",
    "evaluate-everything": "Measure the fast preset of mask generation beside the full one.",
    "evaluate-tracking": "Measure how well a checkpoint follows objects through clips.",
    "benchmark": "Measure speed and memory, beside transformers.",
}
# The extra that brings what a command needs, where it isn't `train`.
EXTRAS = {"label": "label", "label-plan": "label", "export": "export"}
EXPECTED_ERRORS = (ValueError, TypeError, OSError)


class LazyGroup(TyperGroup):
    """A group whose commands are placeholders until one is called, and which reports errors in one line."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, placeholder if name is None else load_command(name), rest

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        given = sys.argv[1:] if args is None else list(args)
        debug = "--debug" in given
        rest = [arg for arg in given if arg != "--debug"]
        try:
            result = super().main(rest, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.Abort:
            typer.echo("sam-variants: aborted", err=True)
            sys.exit(1)
        except Exception as error:
            if debug or not standalone_mode:
                raise
            typer.echo(one_line(error), err=True)
            sys.exit(getattr(error, "exit_code", 1))
        if standalone_mode:
            sys.exit(result if isinstance(result, int) else 0)
        return result


app = typer.Typer(cls=LazyGroup, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def load_command(name: str) -> Any:
    """Import a subcommand.

    Raises:
        ValueError: when it needs a package that is not installed.
    """
    function = name.replace("-", "_")
    with missing_named(name):
        module = importlib.import_module(f"sam_variants.hub_scripts.{function}")
    found = getattr(module, function)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        single.command(name)(found)
        found = single
    command = typer.main.get_command(found)
    for each in getattr(command, "commands", {name: command}).values():
        each.callback = with_registration(each.callback, name)
    return command


@contextmanager
def missing_named(command: str) -> Iterator[None]:
    """Say of a package that is not installed which extra brings it.

    Raises:
        ValueError: in place of the ModuleNotFoundError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "sam_variants").startswith("sam_variants"):
            raise
        extra = EXTRAS.get(command, "train")
        raise ValueError(
            f"{command} needs {error.name}, which is not installed: pip install 'sam-variants[{extra}]'"
        ) from error


def with_registration(run: Callable[..., Any], command: str) -> Callable[..., Any]:
    """The same behind the registration, which `import sam_variants` leaves out in a command's process."""

    @wraps(run)
    def registered(*args: Any, **options: Any) -> Any:
        with missing_named(command):
            from sam_variants.registration import register  # it imports every model

            register()
            return run(*args, **options)

    return registered


def one_line(error: Exception) -> str:
    """What went wrong, for the command's user.

    Args:
        error: a usage error of typer (it knows its command), an error that a message explains, or an unexpected one.
    """
    if hasattr(error, "format_message"):
        command = getattr(getattr(error, "ctx", None), "command_path", "sam-variants")
        return f"{command}: {' '.join(error.format_message().split())} ({command} --help shows how to call it)"
    message = " ".join(str(error).split())
    if isinstance(error, EXPECTED_ERRORS) and message:
        return f"sam-variants: {message}"
    return f"sam-variants: unexpected {type(error).__name__}: {message} (--debug shows where)"


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sam-variants {importlib.metadata.version('sam-variants')}")
        raise typer.Exit


@app.callback()
def describe(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; anywhere on the line.")
    ] = False,
) -> None:
    """Segment Anything on the command line. Every command explains itself with --help."""


def placeholder() -> None:
    """Stands for a subcommand in the list."""


for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(placeholder)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
