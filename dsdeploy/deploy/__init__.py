"""Backends: the engines that a plan can be given to."""
