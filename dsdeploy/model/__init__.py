"""What DeepSeek-V3 is: its configuration and its tensors. No files, no torch."""
