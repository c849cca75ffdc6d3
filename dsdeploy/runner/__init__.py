"""The native runner: DeepSeek-V3 in PyTorch, the reference that engines are checked against."""
