"""What only Models & task draws, of tasks."""
