"""How `serve` is asked: where the engine is, where it shall run, who may ask it, how patiently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from dsdeploy.ssh import CONFIG_VARIABLE

_OPTIONS = (
    click.option("--backend", help="The engine; default: what plan chooses of those found here."),
    click.option("--profile", help="A machine's profile, or a file; default: this machine."),
    click.option(
        "--plan",
        "plan_file",
        type=click.Path(path_type=Path),
        help="A saved plan, in place of MODEL.",
    ),
    click.option(
        "--weights", help="The checkpoint in the plan's precision, where it is not MODEL."
    ),
    click.option("--name", help="Of the deployment, for ps, logs and stop; default: the model's."),
    click.option(
        "--served-name", help="What clients call the model; default: its name's last part."
    ),
    click.option(
        "--detach", is_flag=True, help="Leave it running in the background when it is ready."
    ),
    click.option(
        "--engine-python",
        type=click.Path(path_type=Path),
        help="Of the environment that the engine is installed in.",
    ),
    click.option(
        "--runtime", type=click.Choice(["docker", "podman"]), help="Run it in its own container."
    ),
    click.option("--image", help="The container's, in place of the engine's own."),
    click.option("--nodes", help="HOST,HOST: the first serves; each is reached over ssh."),
    click.option(
        "--ssh-config",
        envvar=CONFIG_VARIABLE,
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="For the hosts of --nodes, in place of ssh's own.",
    ),
    click.option("--on", type=click.Choice(["slurm", "kubernetes"]), help="Who shall run it."),
    click.option("--host", help="Default: 127.0.0.1; with --nodes the first one's address."),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=8000,
        show_default=True,
        help="0: a free one.",
    ),
    click.option(
        "--api-key-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Holds the key that clients must send; or set DSDEPLOY_API_KEY.",
    ),
    click.option("--insecure", is_flag=True, help="Ask clients for no key."),
    click.option("--tools", is_flag=True, help="Parse calls of tools out of answers."),
    click.option("--reasoning", is_flag=True, help="Parse thoughts out of answers."),
    click.option(
        "--extra-arg", "extra_arguments", multiple=True, help="Passed to the engine as it is."
    ),
    click.option(
        "--extra-env",
        "extra_environment",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set for the engine.",
    ),
    click.option(
        "--env-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="NAME=VALUE a line, for the engine; secrets are best kept there.",
    ),
    click.option("--startup-seconds", type=click.IntRange(1), help="Until it must be ready."),
    click.option(
        "--grace-seconds",
        type=click.FloatRange(0),
        default=60.0,
        show_default=True,
        help="For requests to end when it is told to stop.",
    ),
    click.option(
        "--restarts",
        type=click.IntRange(0),
        default=5,
        show_default=True,
        help="In a row, of an engine that has been ready.",
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be run; start nothing."),
)


def serve_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
