"""From a Hugging Face repository to a verified DeepSeek-V3 endpoint."""

__version__ = "0.7.0"
