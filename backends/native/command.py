"""Our own runner; under torchrun when a node has several devices of it."""

from __future__ import annotations

from dsdeploy import __version__
from dsdeploy.deploy.launch import Container, Launch, Port, Process, Secret, Word
from dsdeploy.deploy.wanted import API_KEY, Wanted, nodes_of, probes, require_folder
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    require_folder(wanted, "The native runner")
    if release not in (None, __version__):
        raise UsageError(f"The native runner is dsdeploy itself, {__version__}.")
    return Launch(
        name=wanted.name,
        backend="native",
        release=__version__,
        nodes=nodes_of(plan, wanted, lambda first: (_process(plan, wanted),)),
        container=Container(wanted.image or f"dsdeploy:{__version__}"),
    )


def _process(plan: Plan, wanted: Wanted) -> Process:
    environment: dict[str, Word | Secret] = {"DSDEPLOY_API_KEY": API_KEY} if wanted.key else {}
    return Process(
        name="dsdeploy",
        argv=(
            *_python(plan), "serve", wanted.weights,
            "--name", wanted.name,
            "--host", wanted.host,
            "--port", str(wanted.port),
            "--context", str(plan.context),
            "--max-sequences", str(plan.concurrency),
            plan.memory_flag, plan.memory_value,
            *(("--mtp", "1") if plan.mtp else ()),
            *wanted.extra_arguments,
        ),
        environment=environment | dict(wanted.extra_environment),
        ports=(Port("http", wanted.port),),
        probes=probes(plan, wanted.port, "/health", "/health"),
    )  # fmt: skip


def _python(plan: Plan) -> tuple[str, ...]:
    if plan.layout.devices == 1:
        return ("dsdeploy",)
    if plan.nodes > 1:
        raise UsageError("The native runner is rendered for one node.", "Plan for one node.")
    return ("torchrun", "--nproc-per-node", str(plan.layout.devices), "-m", "dsdeploy")
