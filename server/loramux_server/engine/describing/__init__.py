"""The child process that describes a base: which modules PEFT can adapt, and to which of them vLLM applies adapters.

Run it as `python -m loramux_server.engine.describing FOLDER NAME`; it writes a BaseDescription as JSON.
"""
