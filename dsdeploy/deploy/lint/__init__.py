"""Checks of other people's scripts and manifests; see docs/lint.md."""
