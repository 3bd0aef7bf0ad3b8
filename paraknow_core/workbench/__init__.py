"""What exists for the browser only."""
