"""What is wrong with a deployment itself, a rule a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from dsdeploy.deploy.lint.calls import Call
from dsdeploy.deploy.lint.finding import Finding
from dsdeploy.deploy.lint.found import UNKNOWN
from dsdeploy.units import format_seconds

_FAMILY = re.compile(r"deepseek-(v3|r1)|kimi-k2", re.IGNORECASE)
_LEAST_PATIENCE = 600
_LOOPBACK = re.compile(r"127\.|::1$|localhost$")
_SECRET_NAMES = re.compile(r"(TOKEN|API_KEY|PASSWORD|SECRET)$")
_EXAMPLE = re.compile(r"<.*>|.*(\.\.\.|x{3,}|your|changeme|EMPTY).*", re.IGNORECASE)
_RANKS_OF_ONE_NODE = 8
_PROXY = "a proxy in front that asks for a key"
_OPEN_TO = {
    "host": ("Whoever reaches this machine", f"--host 127.0.0.1 with {_PROXY}"),
    "cluster": ("Every pod of the cluster", f"a NetworkPolicy with {_PROXY}"),
    "published": ("Whoever reaches the published port", "publish it as 127.0.0.1:PORT:PORT"),
}


def is_of_the_family(call: Call) -> bool:
    """Whether the model's name says that it is one of the large ones."""
    model = call.model or ""
    return _FAMILY.search(model) is not None and "distill" not in model.lower()


def open_without_key(call: Call) -> Iterator[Finding]:
    if _reaches_nobody(call) or _has_key(call) or call.option("--headless"):
        return
    option = call.option("--host", "--server-name")
    reach = call.found.container.reach if call.found.container else "host"
    message, fix = _OPEN_TO[reach]
    fix += ", or a key: VLLM_API_KEY from a secret" if call.engine == "vllm" else ""
    at = option.word.start if option else call.at
    yield _warning(
        at, "open-without-key", f"{message} may use the model: no key is asked for.", fix
    )


def _reaches_nobody(call: Call) -> bool:
    container = call.found.container
    if container is not None and container.reach == "nobody":
        return True
    if container is not None and container.reach == "published":
        return False
    host = call.value("--host", "--server-name")
    if host is None:
        flag = call.catalogue.flags.get("--host") or call.catalogue.flags.get("--server-name")
        host = (flag.default if flag else None) or "0.0.0.0"
    return _LOOPBACK.match(host) is not None or UNKNOWN in host


def _has_key(call: Call) -> bool:
    in_environment = any(one.name == "VLLM_API_KEY" for one in call.found.environment)
    return in_environment or call.option("--api-key", "--api-keys") is not None


def secret_in_argv(call: Call) -> Iterator[Finding]:
    option = call.option("--api-key", "--api-keys")
    if option and option.value and _is_secret(option.value):
        message = f"The key stands in this file, and every user of the machine can read {option.name} in the list of processes."
        fix = "read it from a file or a secret, and change it"
        if call.engine == "vllm":
            fix = "pass VLLM_API_KEY from a secret, and change the key"
        yield _error(option.word.start, "secret-in-argv", message, fix)
    for variable in call.found.environment:
        value = variable.value.text if variable.value else ""
        named_so = value.startswith("hf_") or _SECRET_NAMES.search(variable.name)
        if named_so and value and _is_secret(value):
            message = f"The value of {variable.name} stands in this file."
            fix = "read it from a file or a secret, and change it"
            yield _error(variable.at, "secret-in-argv", message, fix)


def _is_secret(value: str) -> bool:
    return UNKNOWN not in value and _EXAMPLE.fullmatch(value) is None


def trust_remote_code(call: Call) -> Iterator[Finding]:
    option = call.option("--trust-remote-code")
    own = is_of_the_family(call) and "kimi" not in (call.model or "").lower()
    if option and own and call.engine in ("vllm", "sglang"):
        message = f"--trust-remote-code runs the repository's Python; {call.catalogue.engine} has this model's code itself."
        yield _warning(option.word.start, "trust-remote-code", message, "leave it out")


def swallowed_positional(call: Call) -> Iterator[Finding]:
    if call.engine != "vllm" or call.positionals or call.option("--model"):
        return
    for option in call.options:
        flag = call.catalogue.flags.get(option.name)
        many = flag is not None and flag.takes in ("many", "any")
        if many and len(option.values) > 1 and "/" in option.values[-1].text:
            last = option.values[-1]
            message = f"{option.name} takes {last.text} as one more value: no model is left."
            yield _error(last.start, "swallowed-positional", message, "put the model first")


def engine_backend(call: Call) -> Iterator[Finding]:
    serves = call.engine == "lmdeploy" and call.command.command != "proxy"
    chosen = call.value("--backend") or "turbomind"
    if serves and is_of_the_family(call) and chosen != "pytorch" and UNKNOWN not in chosen:
        message = "Only LMDeploy's PyTorch engine runs this model; TurboMind is its default."
        yield _warning(call.at, "engine-backend", message, "--backend pytorch")


def missing_shm(call: Call) -> Iterator[Finding]:
    container = call.found.container
    size = call.number("--tensor-parallel-size", "--tp-size", "--tp_size", "--tp")
    if container and not container.shared_memory and size and size > 1:
        message = "A tensor group's processes share memory through /dev/shm, of which a container has 64 MB."
        fix = "--shm-size 32g (in a compose file shm_size: 32g), or --ipc=host"
        if container.orchestrated:
            fix = "an emptyDir of medium Memory, mounted at /dev/shm"
        yield _warning(container.at, "missing-shm", message, fix)


def impatient_probe(call: Call) -> Iterator[Finding]:
    for one in call.found.patience:
        if one.seconds < _LEAST_PATIENCE and is_of_the_family(call):
            message = f"The {one.probe} gives up after {format_seconds(one.seconds)}; weights of this size take 10 minutes and more to load."
            fix = "a startupProbe with periodSeconds: 10, failureThreshold: 360"
            if one.probe == "health check":
                fix = "start_period: 60m (--health-start-period 60m)"
            yield _error(one.at, "impatient-probe", message, fix)


def mpi_launcher_missing(call: Call) -> Iterator[Finding]:
    if call.engine != "tensorrt_llm":
        return
    tensor = call.number("--tp_size", "--tensor_parallel_size")
    stages = call.number("--pp_size", "--pipeline_parallel_size")
    launched = any("trtllm-llmapi-launch" in word.text for word in call.before)
    if tensor and stages and tensor * stages > _RANKS_OF_ONE_NODE and not launched:
        message = f"{tensor * stages} ranks are more than a node has: trtllm-serve does not start them elsewhere."
        fix = "srun --mpi=pmix ... trtllm-llmapi-launch trtllm-serve ..."
        yield _error(call.at, "mpi-launcher-missing", message, fix)


def _error(at: int, rule: str, message: str, fix: str) -> Finding:
    return Finding(at, "error", rule, message, fix)


def _warning(at: int, rule: str, message: str, fix: str) -> Finding:
    return Finding(at, "warning", rule, message, fix)


RULES: tuple[Callable[[Call], Iterator[Finding]], ...] = (
    open_without_key,
    secret_in_argv,
    trust_remote_code,
    swallowed_positional,
    engine_backend,
    missing_shm,
    impatient_probe,
    mpi_launcher_missing,
)
