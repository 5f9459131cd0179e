"""Work that outlives its client."""
