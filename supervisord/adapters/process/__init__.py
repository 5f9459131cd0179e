"""Processes: each backend runs below a guardian, a small program that outlives the daemon and kills it all."""
