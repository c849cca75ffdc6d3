"""`dsdeploy` with less patience than it has, so that its tests need little of their own."""

from functools import partial

from dsdeploy.cli.main import main
from dsdeploy.runner import start
from dsdeploy.runner.server import run, transport
from dsdeploy.runner.server.guard import Limits

HEAD_SECONDS, BODY_SECONDS, WRITE_SECONDS, TEMPLATE_SECONDS = 1.0, 1.5, 2.0, 2.5

if __name__ == "__main__":
    transport.HEAD_SECONDS, transport.STUCK_SECONDS = HEAD_SECONDS, WRITE_SECONDS
    limits = Limits(body_seconds=BODY_SECONDS, write_seconds=WRITE_SECONDS)
    run.ServerOptions = partial(run.ServerOptions, limits=limits)
    start.ChatTemplate = partial(start.ChatTemplate, seconds=TEMPLATE_SECONDS)
    main()
