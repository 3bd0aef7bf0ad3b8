"""What only Ablations draws."""
