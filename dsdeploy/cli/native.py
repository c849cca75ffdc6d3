"""dsdeploy native: the native runner's own server, as `serve --backend native` starts it."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsdeploy.cli.common import output_options
from dsdeploy.cli.launching import is_loopback
from dsdeploy.cli.runner_options import runner_options, start_runner
from dsdeploy.errors import UsageError
from dsdeploy.output import Output
from dsdeploy.serving.environment import KEY_VARIABLE, read_key

if TYPE_CHECKING:
    from dsdeploy.runner.server.endpoint import Endpoint
    from dsdeploy.runner.start import Runner, Settings


@click.command("native")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0: any free one.",
)
@click.option("--name", help="What clients call the model; default: the folder's name.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"Holds the key that clients must send; or set {KEY_VARIABLE}.",
)
@click.option("--insecure", is_flag=True, help="Let the network in without a key.")
@click.option(
    "--max-waiting",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Requests that may wait; more are answered with 429.",
)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="For answers to end when the server is told to.",
)
@output_options
@runner_options
def command(
    out: Output,
    model: Path,
    host: str,
    port: int,
    name: str | None,
    api_key_file: Path | None,
    insecure: bool,
    max_waiting: int,
    drain_seconds: float,
    settings: Settings,
) -> None:
    """Run the native runner's server on the checkpoint in folder MODEL, with nobody to watch it.

    The address is printed when it is ready; a page to chat with is at `/`. Ctrl-C or SIGTERM ends
    it when the answers that run are done. For several devices: torchrun -m dsdeploy native ...
    """
    from dsdeploy.runner.server.run import ServerOptions, bind, serve

    key = _api_key(api_key_file)
    if key is None and not insecure and not is_loopback(host):
        raise UsageError(
            f"--host {host} opens the model to the network, and there is no API key.",
            f"Set {KEY_VARIABLE} or give --api-key-file; --insecure does without.",
        )
    options = ServerOptions(host, port, key, drain_seconds)
    first = int(os.environ.get("RANK", "0")) == 0
    listener = bind(options) if first else None
    runner = start_runner(out, model, settings)
    if runner is None or listener is None:
        return
    served = name or model.resolve().name
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"

    def ready() -> None:
        out.line(f"{served} is served at {address}/v1 (chat page: {address}/)")
        out.event({**runner.facts, "event": "ready", "model": served, "address": address})

    serve(listener, partial(_endpoint, runner, served, max_waiting), options, ready)
    out.line("Ended.")


def _endpoint(
    runner: Runner, name: str, max_waiting: int, loop: asyncio.AbstractEventLoop
) -> Endpoint:
    from dsdeploy.runner.server.endpoint import Endpoint
    from dsdeploy.runner.server.generation import Mailbox
    from dsdeploy.runner.server.metrics import Metrics
    from dsdeploy.runner.service import EngineService

    return Endpoint(
        intake=runner.intake(name),
        service=EngineService(runner.engine),
        metrics=Metrics(runner.engine, name),
        mailbox=Mailbox(loop),
        max_waiting=max_waiting,
        facts=runner.facts,
    )


def _api_key(file: Path | None) -> str | None:
    key = os.environ.pop(KEY_VARIABLE, None)  # the template's process shall not inherit it
    if file is None and key is None:
        return None
    return read_key(str(file or ""), {} if key is None else {KEY_VARIABLE: key})
