"""loramux and stock vLLM on a CUDA machine, with random weights."""
