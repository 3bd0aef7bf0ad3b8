"""Pure tensor functions: tensors in, tensors or numbers out. Knows torch, numpy, scipy and the errors only."""
