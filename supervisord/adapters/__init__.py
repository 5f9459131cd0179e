"""What touches the world, one port each. Adapters never import one another."""
