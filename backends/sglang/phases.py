"""How SGLang's log tells how far a start has come, from 0.4.6 to 0.5.23."""

from __future__ import annotations

from dsdeploy.deploy.launch import Phase

_COUNTED = r".*?(?P<done>\d+)/(?P<total>\d+)"
PHASES = (
    Phase("load", r"Load weight begin"),
    Phase("load", r"(?:Loading \S+ checkpoint shards|Multi-thread loading shards)" + _COUNTED),
    Phase("cache", r"KV Cache is allocated|Memory pool end"),
    Phase("graphs", r"Capture (?:\w+ )?graph begin"),
    Phase("graphs", r"Capturing (?:num tokens|batches)" + _COUNTED),
    Phase("warm-up", r"Application startup complete"),
)
