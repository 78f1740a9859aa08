"""vLLM's code for CUDA on a CPU: its V2 model runner, asynchronous scheduling, and Triton kernels, interpreted.

vLLM's CPU build has the same Python as the CUDA build. What a CPU runs differs in five places; here the four that are
Python are as on a GPU: the model runner, the scheduler, the worker in the scheduler's process, and the LoRA and zeroing
kernels. The fifth, compiled and captured kernels of attention and matrix products, needs a GPU.

A process runs one or the other: `python -m tests.cuda_path` sets the variables of `environment` and starts pytest.
`worker` runs in the engine's process, the other modules in that of the tests.
"""
