"""How MindIE's log tells how far a start has come."""

from __future__ import annotations

from dsdeploy.deploy.launch import Phase

PHASES = (
    Phase("load", r"(?i)loading (?:model )?weights?|load weight"),
    Phase("server", r"Daemon start success!"),
)
