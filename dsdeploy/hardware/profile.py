"""Profiles: a chip, and a machine made of it, as their YAML files say it.

An accelerator's file states what its vendor states; a machine's file names an accelerator and says
how many there are and what joins them. `profiles/` has both; users' own lie beside them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dsdeploy.errors import UsageError
from dsdeploy.units import parse_bytes

NumberFormat = Literal["fp32", "fp16", "bf16", "fp8", "int8", "fp4"]


def _size(value: object) -> object:
    if isinstance(value, str):
        try:
            return parse_bytes(value)
        except UsageError as error:
            raise ValueError(f"{error.message} {error.hint}") from None
    return value


def _rate(value: object) -> object:
    """`4.8TB/s`, `400Gb/s` (bits) -> bytes a second."""
    if not isinstance(value, str):
        return value
    amount, _, rest = value.rstrip().rpartition("/s")
    try:
        size = parse_bytes("" if rest else amount)
    except UsageError:
        raise ValueError(f"{value!r} is not a rate. Write it as 900GB/s or 400Gb/s.") from None
    return size // 8 if amount.rstrip().endswith("b") else size


_AS_TEXT = {"type": ["string", "integer"]}
# The bounds stand before the reading of text: only there do they reach the JSON Schema.
Size = Annotated[
    int,
    Field(gt=0, lt=2**63, strict=True),
    BeforeValidator(_size),
    Field(json_schema_extra=_AS_TEXT, description="Bytes: 141GB, 64GiB."),
]
Rate = Annotated[
    int,
    Field(gt=0, lt=2**63, strict=True),
    BeforeValidator(_rate),
    Field(
        json_schema_extra=_AS_TEXT,
        description="Bytes a second (4.8TB/s), or bits with a small b (400Gb/s).",
    ),
]


class _Profile(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Link(_Profile):
    """What joins devices or nodes."""

    kind: str
    """As people call it: NVLink 4, PCIe 4.0 x16, InfiniBand NDR."""
    bandwidth: Rate
    """In one direction, of one device (inside a node) or of one node (between nodes)."""


class Accelerator(_Profile):
    """One device as a program sees it; a chip of two dies that are two devices is two."""

    name: str
    vendor: Literal["nvidia", "amd", "huawei", "cpu"]
    architecture: str = Field(pattern=r"^(sm\d{2,3}|gfx\d{3}|ascend910[bc]|x86_64|aarch64)$")
    """What kernels are compiled for: sm90, gfx942, ascend910b, x86_64."""
    memory: Size | None = None
    """As its vendor states it. A CPU has none of its own: its node's is used."""
    usable_memory: Size | None = None
    """What its driver reports as the total to a program, before anything runs."""
    bandwidth: Rate
    """Of its memory."""
    teraflops: dict[NumberFormat, Annotated[float, Field(gt=0, strict=True)]] = Field(min_length=1)
    """Peak dense rates of its matrix units, without sparsity, for each format that it computes
    natively; a format that is absent is not computed natively."""
    fp8_variant: Literal["e4m3fn", "e4m3fnuz"] | None = None
    """How its FP8 numbers are coded."""
    link: Link
    """To its neighbours in a node."""
    reported_as: tuple[str, ...] = ()
    """What drivers call it, for `dsdeploy profiles detect`."""


class Disk(_Profile):
    space: Size
    """Free for a model's files, on each node."""
    read: Rate
    """Sequential, of one node."""


class Machine(_Profile):
    """All that one deployment may use: some nodes of the same kind."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    description: str
    accelerator: Accelerator
    nodes: int = Field(ge=1, le=1024, strict=True)
    accelerators_per_node: int = Field(ge=1, le=64, strict=True)
    host_memory: Size
    """Of each node."""
    disk: Disk
    intra_node: Link | None = None
    """Between the devices of a node where it is not the accelerator's own link."""
    inter_node: Link | None = None
    """Between nodes; wanted as soon as there are two."""
    network_interface: str | None = None
    """The interface that nodes know each other by, for NCCL_SOCKET_IFNAME and its kin."""
    container_runtime: Literal["docker", "podman", "none"] = "none"
    price_per_hour: float | None = Field(default=None, gt=0, strict=True)
    """US dollars for all nodes together."""

    @property
    def devices(self) -> int:
        return self.nodes * self.accelerators_per_node

    @property
    def device_memory(self) -> int:
        """Bytes a program can have of one device when nothing else runs."""
        chip = self.accelerator
        return chip.usable_memory or chip.memory or self.host_memory // self.accelerators_per_node

    @property
    def node_link(self) -> Link:
        return self.intra_node or self.accelerator.link
