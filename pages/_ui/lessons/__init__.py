"""What only Lessons draws."""
