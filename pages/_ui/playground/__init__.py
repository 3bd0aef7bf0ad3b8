"""What only the Playground draws."""
