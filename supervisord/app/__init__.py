"""Composition root, signals, logging."""
