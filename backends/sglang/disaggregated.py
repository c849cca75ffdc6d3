"""SGLang's prefill and decode servers, and its router.

A request goes to a server of each kind at once. They meet at the prefill server's bootstrap port, and the
latents go from card to card. Source: SGLang's document on PD disaggregation, and its router's parser.
"""

from __future__ import annotations

from dsdeploy.deploy.disaggregation import Servers, router_launch
from dsdeploy.deploy.flags import Catalogue, spelling
from dsdeploy.deploy.launch import Joined, Launch, Peer, Port, Word
from dsdeploy.deploy.wanted import Role, Wanted, probes
from dsdeploy.planning.plan import Plan

BOOTSTRAP_PORT = 8998
NOTES = (
    "Prefill and decode servers ask for no key and listen on all of a machine's addresses: let only the "
    f"group's machines reach them, at the servers' port, at {BOOTSTRAP_PORT} and at the ports that the "
    "transfer chooses.",
    "Latents travel by RDMA: --extra-arg=--disaggregation-ib-device=mlx5_0 names its cards, and "
    "--extra-arg=--disaggregation-transfer-backend=nixl another way than Mooncake.",
)


def serving(role: Role, catalogue: Catalogue) -> list[Word]:
    words: list[Word] = [spelling(catalogue, "--disaggregation-mode"), role]
    if role == "prefill":
        port = spelling(catalogue, "--disaggregation-bootstrap-port")
        words += [port, str(BOOTSTRAP_PORT)]
    return words


def ports(role: Role) -> tuple[Port, ...]:
    """Where decode servers ask a prefill server for the latents."""
    return (Port("bootstrap", BOOTSTRAP_PORT, internal=True),) if role == "prefill" else ()


def router(plan: Plan, wanted: Wanted, release: str, servers: Servers, image: str) -> Launch:
    start = probes(plan, wanted.port, "/liveness", "/readiness")
    words: list[Word] = ["python3", "-m", "sglang_router.launch_router", "--pd-disaggregation"]
    for name in servers.prefill:
        words += ["--prefill", _url(name, wanted.port), str(BOOTSTRAP_PORT)]
    for name in servers.decode:
        words += ["--decode", _url(name, wanted.port)]
    return router_launch("sglang", "sglang-router", release, image, wanted, start, words)


def _url(name: str, port: int) -> Joined:
    return Joined(("http://", Peer(name), f":{port}"))
