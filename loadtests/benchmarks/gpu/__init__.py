"""The table of loadtests/gpu: loramux and stock vLLM on a CUDA machine, without weights."""
