"""A repository of a Hub as the source of `inspect` and `convert`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsdeploy.building.output import BuildPlan, Part, files_of_part
from dsdeploy.building.sources import AtHand, Sources
from dsdeploy.checkpoint.store import STAGING
from dsdeploy.cli.hub_options import Reach
from dsdeploy.hub.listing import Listing, RemoteFile
from dsdeploy.hub.metadata import Hub
from dsdeploy.hub.origin import Origin
from dsdeploy.hub.repository import parse_repository
from dsdeploy.hub.source import HubSource, stays_at
from dsdeploy.hub.stage import Stage, bytes_at_once
from dsdeploy.hub.store import HubStore
from dsdeploy.output import Output
from dsdeploy.units import format_bytes

_CONNECTIONS = 16
_SHARD = 5 * 10**9
"""Bytes of a shard, at most, as the Hub's libraries cut them: what may be staged for a worker."""
_FEW = 3
"""Shards that may be staged however few the workers: an output can begin in one and end in another."""
_AHEAD = 2
"""Shards that come, at most, while others are read."""


@dataclass(frozen=True)
class Transit:
    """How the shards that an output reads come."""

    files: Mapping[str, RemoteFile]
    space: int | None
    """Bytes that they take on the target's disk at most, when few are needed at a time: then each
    comes whole and verified. None when an output reads of so many, as per-rank files of a large
    model do of all, that stretches of them are fetched, of which only the lengths are checked."""

    @property
    def facts(self) -> list[tuple[str, str]]:
        """For a plan that is shown."""
        if self.space is None:
            return [("from the Hub", "tensors by ranges, not verified by hash")]
        nbytes = sum(file.size for file in self.files.values())
        staged = min(nbytes, self.space)
        return [
            ("from the Hub", f"{len(self.files)} shards, {format_bytes(nbytes)}"),
            ("staged", f"{format_bytes(staged)} at a time, beside the space needed"),
        ]


@dataclass(frozen=True)
class OpenRepository:
    """One commit."""

    store: HubStore
    listing: Listing
    origin: Origin
    reach: Reach

    def transit(self, plan: BuildPlan, part: Part, workers: int) -> Transit:
        needs = [(file.name, file.reads) for file in files_of_part(plan.files, part)]
        read = frozenset().union(*(names for _, names in needs))
        files = {file.path: file for file in self.listing.files if file.path in read}
        sizes = {name: file.size for name, file in files.items()}
        needed = bytes_at_once(needs, sizes)
        if needed > max(workers, _FEW) * _SHARD:
            return Transit(files, None)
        largest = max(sizes.values(), default=0)
        return Transit(files, max(needed, min(workers * largest, needed + _AHEAD * largest)))

    def sources(
        self, plan: BuildPlan, target: Path, part: Part, workers: int, out: Output
    ) -> Sources:
        transit = self.transit(plan, part, workers)
        if transit.space is None:
            out.remark("Tensors are read by ranges: no shard passes whole, to be verified by hash.")
            return AtHand()
        folder = target / STAGING / f".source-{part.index}-of-{part.count}"
        retries, watch = self.reach.retries, _Remarks(out)
        stage = Stage(self.origin, transit.files, folder, transit.space, retries, watch)
        self.store.supply = stage
        return stage


def open_repository(
    text: str, reach: Reach, out: Output, before: Mapping[str, Any] | None
) -> OpenRepository:
    """`before` is the source of what was begun in a target: its commit is kept to, also when a
    branch has moved since."""
    source = HubSource(Hub(reach.endpoint, reach.retries), parse_repository(text), reach.retries)
    identity = source.identify()
    if before is not None and stays_at(before, identity, source.pinned):
        out.remark(
            f"The branch has moved to {identity['commit'][:12]} since; this goes on with "
            f"{before['commit'][:12]}, from which it was begun."
        )
        identity = {key: before[key] for key in identity}
    listing = source.listing(identity)
    origin = source.origin(identity, _CONNECTIONS)
    return OpenRepository(HubStore(listing, origin, reach.retries), listing, origin, reach)


class _Remarks:
    """A stage's watch: the bar is the conversion's."""

    def __init__(self, out: Output) -> None:
        self._out = out

    def advance(self, nbytes: int, name: str) -> None:
        pass

    def remark(self, text: str) -> None:
        self._out.remark(text)

    def retried(self) -> None:
        pass
