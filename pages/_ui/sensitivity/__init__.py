"""What only Sensitivity draws."""
