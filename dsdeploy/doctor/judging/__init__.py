"""Checks made of facts, without looking at any machine."""
