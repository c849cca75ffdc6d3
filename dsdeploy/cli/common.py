"""What every command shares: output options and the way an error ends."""

from __future__ import annotations

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from dsdeploy.errors import DeployError, DiskError, ExitCode
from dsdeploy.output import Output

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}


def _default_workers() -> int:
    """Two a core: one computes while the other waits for the disk."""
    return min(32, 2 * len(os.sched_getaffinity(0)))


workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=_default_workers,
    help="Threads; default: two a core, at most 32.",
)


def output_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add --json, --quiet and --debug; call `function(out, ...)`; end with the right exit code."""

    @click.option("--json", "json_mode", is_flag=True, help="One JSON document on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def wrapper(json_mode: bool, quiet: bool, debug: bool, **arguments: Any) -> None:
        out = Output(json_mode, quiet)
        try:
            function(out, **arguments)
        except BrokenPipeError:
            # The reader of our pipe has gone (`| head`); keep the interpreter from complaining.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(ExitCode.FAILED)
        except KeyboardInterrupt:
            sys.exit(ExitCode.INTERRUPTED)
        except click.ClickException:
            raise
        except Exception as error:
            if debug:
                traceback.print_exc()
            shown = _as_deploy_error(error)
            out.error(shown)
            sys.exit(shown.exit_code)

    return wrapper


def _as_deploy_error(error: Exception) -> DeployError:
    if isinstance(error, DeployError):
        return error
    if isinstance(error, OSError):
        return _of_the_system(error)
    return DeployError(
        f"This is a fault of dsdeploy: {type(error).__name__}: {error}.",
        "Run it again with --debug and report what it prints.",
    )


def _of_the_system(error: OSError) -> DeployError:
    where = f"{error.filename}: " if error.filename else ""
    sentence = f"{where}{error.strerror or error}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "Free some space, then run the same command: what is done stays."
        return DiskError(sentence, hint)
    if error.errno in _DISK:
        return DiskError(sentence, "See to the disk or the permissions, then run it again.")
    return DeployError(sentence, "Run it again with --debug to see where it happened.")
