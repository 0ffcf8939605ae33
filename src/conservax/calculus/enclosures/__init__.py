"""Interval arithmetic: programs enclosed on boxes."""
