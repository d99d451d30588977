"""The command's root: which commands there are, and how every error ends."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from api.cli import (
    audit,
    doctor,
    extension,
    launcher,
    learn,
    policy,
    run,
    sandbox,
    serve,
    status,
    supply,
    tenant,
)
from api.cli.failure import Failure, Status
from api.cli.screen import show_error

app = typer.Typer(
    name="ringfence",
    help="Run untrusted ComfyUI node packs, each in a locked-down container of its own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("launcher")(launcher.launcher)
app.command("run")(run.run)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
supply.add_to(extension.app)
app.add_typer(extension.app, name="extension")
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(tenant.app, name="tenant")
app.add_typer(tenant.tokens, name="token")
app.add_typer(audit.app, name="audit")
policy.app.command("learn")(learn.learn)
app.add_typer(policy.app, name="policy")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"ringfence {version('ringfence')}")
        except PackageNotFoundError:
            print("ringfence (not installed)")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run untrusted ComfyUI node packs, each in a locked-down container of its own."""


def main() -> None:
    """Entry of the command; turns every failure into a message, a hint and a status."""
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    try:
        # standalone_mode=False: click would print its own errors and exit by itself.
        result: Any = typer.main.get_command(app)(arguments, prog_name="ringfence", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except Failure as failure:
        show_error(failure.message, failure.hint)
        return failure.status
    except KeyboardInterrupt:
        show_error("interrupted")
        return Status.INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away: not an error, but stdout must not be flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: a message instead of a traceback
        return _other(error)


def _other(error: Exception) -> int:
    # By name: typer bundles or wraps click depending on its version, and both spell these the same.
    kind = type(error).__name__
    if kind == "Exit":
        return int(getattr(error, "exit_code", 0))
    if kind == "Abort":
        show_error("interrupted")
        return Status.INTERRUPTED
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        if kind != "NoArgsIsHelpError":
            show_error(error.format_message(), "see --help")
        else:
            print(error.format_message())
        return Status.USAGE
    if hasattr(error, "code") and hasattr(error, "hint"):  # a RingfenceError of a command that works locally
        show_error(getattr(error, "message", str(error)), str(error.hint))
        return Status.FAILED
    if os.environ.get("RINGFENCE_DEBUG"):
        raise error
    show_error(
        f"unexpected {kind}: {error}",
        "this is a bug; with RINGFENCE_DEBUG=1 the same command prints a traceback",
    )
    return Status.FAILED
