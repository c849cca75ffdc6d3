"""Repositories on a Hub: what they hold, their bytes, and how those become files."""
