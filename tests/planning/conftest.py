import pytest

from dsdeploy.deploy.backend import backend_names, load_backend
from dsdeploy.hardware.profiles import load_machine
from dsdeploy.planning.models import find_model
from dsdeploy.planning.planner import Wish, plan

RULES = {name: load_backend(name).rules() for name in backend_names()}


@pytest.fixture(scope="session")
def v3():
    return find_model("deepseek-ai/DeepSeek-V3")


@pytest.fixture
def planned(v3):
    """`planned("8xh200", "vllm", context=32768)`: all that the planner finds."""

    def run(machine, *backends, **wish):
        machine = load_machine(machine) if isinstance(machine, str) else machine
        rules = {name: RULES[name] for name in backends or RULES}
        return plan(v3, machine, rules, Wish(**wish))

    return run
