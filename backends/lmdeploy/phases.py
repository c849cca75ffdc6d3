"""How LMDeploy's log tells how far a start has come."""

from __future__ import annotations

from dsdeploy.deploy.launch import Phase

PHASES = (
    Phase("load", r"Loading weights from \w+.*?(?P<done>\d+)/(?P<total>\d+)"),
    Phase("warm-up", r"Warming up|Warmup"),
    Phase("server", r"HINT:\s+Please open|Application startup complete"),
)
