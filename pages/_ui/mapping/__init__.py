"""What only Mapping & extraction draws."""
