"""dsdeploy completion: the shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from dsdeploy.cli.common import output_options
from dsdeploy.output import Output


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@output_options
def command(out: Output, shell: str) -> None:
    """Print the completion script of SHELL; for bash: eval "$(dsdeploy completion bash)"."""
    from dsdeploy.cli.main import cli

    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"click has no completion for {shell}")
    script = completion(cli, {}, "dsdeploy", "_DSDEPLOY_COMPLETE").source()
    out.line(script)
    out.result({"shell": shell, "script": script})
