"""Decisions. Pure: no IO, no clock, no randomness, no third-party import."""
