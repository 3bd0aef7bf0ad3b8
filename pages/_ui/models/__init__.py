"""What only Models & task draws, of models."""
