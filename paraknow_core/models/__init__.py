"""Models: where they come from, what they are made of, what fits onto what, and loading them."""
