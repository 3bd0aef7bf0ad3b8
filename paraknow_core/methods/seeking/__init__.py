"""The method: layer mapping, choice of blocks, extraction, preview."""
