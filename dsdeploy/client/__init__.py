"""Talking to an OpenAI-compatible endpoint, whichever engine answers."""
