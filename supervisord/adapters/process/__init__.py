"""Processes: each backend runs below a guardian, a small program that outlives the daemon long enough to kill it all."""
