"""The command `dsdeploy`: a table of verbs, each imported only when it runs."""

from __future__ import annotations

from importlib import import_module

import click

from dsdeploy import __version__

VERBS = {
    "plan": "Say what fits on a machine, before a byte is loaded.",
    "render": "Write what starts a model, for whoever runs it.",
    "lint": "Check others' scripts against an engine's release.",
    "profiles": "Show, check and detect machines.",
    "backends": "Show the engines that are installed as plugins.",
    "synth": "Make a random checkpoint of the DeepSeek-V3 architecture.",
    "inspect": "Say what a checkpoint is, and whether it is whole.",
    "convert": "Cast, rearrange and split a checkpoint.",
    "generate": "Continue a prompt, or a file of requests, without a server.",
    "score": "Give the log-probabilities of texts, a layer at a time.",
    "serve": "Serve a model over HTTP, as OpenAI does.",
    "completion": "Print the completion script of a shell.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"dsdeploy.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_LazyGroup, context_settings={"auto_envvar_prefix": "DSDEPLOY"})
@click.version_option(__version__, prog_name="dsdeploy", message="%(prog)s %(version)s")
def cli() -> None:
    """From a Hugging Face repository to a verified DeepSeek-V3 endpoint."""


def main() -> None:
    cli(prog_name="dsdeploy")
