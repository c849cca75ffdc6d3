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
    "download": "Fetch a repository, whole and verified, or go on with it.",
    "convert": "Cast, rearrange and split a checkpoint.",
    "generate": "Continue a prompt, or a file of requests, without a server.",
    "score": "Give the log-probabilities of texts, a layer at a time.",
    "serve": "Start a model on an engine, check it, and keep it running.",
    "ps": "Show what serve keeps running.",
    "logs": "Show the engine's log of a deployment.",
    "stop": "End deployments, with all their processes.",
    "restart": "End a deployment and start it again.",
    "explain": "Say what an engine's log means, and what mends it.",
    "doctor": "Say what a machine lacks for an engine, and what mends it.",
    "chat": "Talk with a model in the terminal, or from a pipe.",
    "bench": "Measure how fast an endpoint answers under a load.",
    "tune": "Measure the native runner's kernels on this GPU, once.",
    "native": "Run the native runner's server alone, unwatched.",
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
