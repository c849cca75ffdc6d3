import pytest

from dsdeploy.deploy.backend import load_backend
from dsdeploy.hardware.profiles import load_machine
from dsdeploy.planning.models import find_model
from dsdeploy.planning.plan import make_plan
from dsdeploy.planning.planner import Wish, plan


@pytest.fixture
def planned():
    """The Launch of the plan that is chosen for DeepSeek-V3: `planned(backend, machine, wanted)`."""

    def make(name, machine, wanted):
        backend = load_backend(name)
        rules = backend.rules()
        outcome = plan(find_model("DeepSeek-V3"), load_machine(machine), {name: rules}, Wish())
        return backend.launch(make_plan(outcome, outcome.chosen, rules), wanted, None)

    return make
