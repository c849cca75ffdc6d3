"""All checks of one machine."""

from __future__ import annotations

from dsdeploy.doctor.check import Check
from dsdeploy.doctor.facts import Facts
from dsdeploy.doctor.judging.accelerators import judge_accelerators
from dsdeploy.doctor.judging.host import judge_host
from dsdeploy.doctor.judging.need import Need
from dsdeploy.doctor.judging.network import judge_network
from dsdeploy.doctor.judging.software import judge_software


def judge(facts: Facts, need: Need) -> list[Check]:
    return [
        *judge_accelerators(facts, need),
        *judge_software(facts.software, facts.accelerators, need),
        *judge_host(facts, need),
        *judge_network(facts.network, facts.accelerators, need),
    ]
