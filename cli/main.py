"""The command ``strongticket``: finds the command asked for, and turns whatever happens into an exit code.

0: done. 1: an error that was explained. 2: wrong usage. 130: stopped with Ctrl-C, 143: by SIGTERM (128 + the signal).
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

import rich_click as click

from strongticket import __version__
from strongticket.errors import InterruptedRunError, StrongTicketError

from . import console
from .termination import Terminated, terminable

# Name of the command → (its module here, one line about it). The module is imported when the command
# is called, so that help and mistyped names cost no import of torch.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "search": ("search", "Find a ticket: learn masks over frozen random weights."),
    "sweep": ("sweep", "Search over settings and seeds, on one machine or many."),
    "evaluate": ("evaluate", "Put a ticket beside its controls."),
    "export": ("export", "Write a ticket's network for another runtime."),
    "inspect": ("inspect", "Show what a ticket holds and what it takes."),
    "list": ("list", "Show the models, data sets, rules, weight laws or configs there are."),
}


@dataclass
class Session:
    """What the global options say; every command finds it as the context's object."""

    debug: bool = False


class LazyGroup(click.RichGroup):
    """A group whose commands are known by name and line before their modules are imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they are used, not in that of the alphabet."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import the command that is about to run."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            module = import_module(f".{COMMANDS[name][0]}", __package__)
            command = module.command
        return name, command, rest


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and isinstance(ctx.obj, Session):
        ctx.obj.debug = True


@click.group(
    cls=LazyGroup,
    commands=[click.RichCommand(name=name, short_help=line) for name, (_, line) in COMMANDS.items()],
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="strongticket", message="%(prog)s %(version)s")
@click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error as well."
)
@click.pass_context
def group(ctx: click.Context) -> None:
    """Strong lottery tickets: networks whose random weights stay frozen and whose masks are learned."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; ``arguments`` are those of the process if not given."""
    session = Session(debug=os.environ.get("STRONGTICKET_DEBUG", "") not in ("", "0"))
    try:
        arguments = None if arguments is None else list(arguments)
        with terminable():
            result = group.main(arguments, prog_name="strongticket", standalone_mode=False, obj=session)
        sys.stdout.flush()  # here a full disk is an error like any other
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "strongticket"
        console.error(f"{error.format_message()} (see {command} --help)")
        return 2
    except (click.Abort, KeyboardInterrupt) as error:
        console.error("stopped")
        stopped = error.__context__ if isinstance(error, click.Abort) else error  # click puts its own in its place
        return 128 + (stopped.signal if isinstance(stopped, Terminated) else signal.SIGINT)
    except BrokenPipeError:  # whoever read our output went away, as head does
        _abandon_stdout()
        return 1
    except Exception as error:
        if session.debug:
            traceback.print_exc()
        console.error(_explanation(error))
        _abandon_stdout()
        return 128 + error.signal if isinstance(error, InterruptedRunError) else 1
    return result if isinstance(result, int) else 0


def _explanation(error: Exception) -> str:
    if isinstance(error, StrongTicketError):
        return str(error)
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    # torch's own class is not named here, since this module must not import torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "there is not enough memory; lower --batch-size or --width"
    return (
        f"unexpected {type(error).__name__}: {error}. This is a bug; please report it with the output of the same "
        "command under 'strongticket --debug'"
    )


def _abandon_stdout() -> None:
    """Keep the interpreter from failing once more, at exit, over output that cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
