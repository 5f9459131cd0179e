"""Many jobs at once: their file, their lines, their results."""
