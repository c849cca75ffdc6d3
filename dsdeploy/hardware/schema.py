"""The JSON Schema of profile files, as people write them.

A file may extend another, so nothing is required; a machine names its accelerator.
"""

from __future__ import annotations

from typing import Any

from dsdeploy.hardware.profile import Accelerator, Machine


def profile_schema(kind: str) -> dict[str, Any]:
    """`machine` or `accelerator`."""
    model = Machine if kind == "machine" else Accelerator
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"dsdeploy {kind}"
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("required", None)
    properties = schema["properties"]
    properties["extends"] = {"type": "string", "description": "A profile whose fields these vary."}
    if kind == "machine":
        chip = properties["accelerator"]
        name = {"type": "string", "description": "The name of an accelerator's profile."}
        properties["accelerator"] = {"anyOf": [name, chip]}
    return schema
