"""Templates and profiles, read from wherever the package is installed."""

from __future__ import annotations

from importlib.resources import files


def read_template(path: str) -> str:
    """The text of `templates/<path>`."""
    return files("dsdeploy.templates").joinpath(path).read_text(encoding="utf-8")


def read_known_config(name: str) -> str:
    """The config.json of a published model, by its short name (`v3`, `kimi-k2`, ...)."""
    return files("dsdeploy.model").joinpath(f"configs/{name}.json").read_text(encoding="utf-8")
