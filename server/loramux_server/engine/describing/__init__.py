"""The child process that describes a base: which modules PEFT can adapt, and to which of them vLLM applies adapters.

Run it as `python -m loramux_server.engine.describing FOLDER NAME VERSIONS OUTPUT`, with vLLM's options as JSON on its
standard input; it writes a BaseDescription as JSON.
"""

ARGUMENT_REFUSED = 3
"""The exit status for an option that vLLM or loramux refuses; the last line of standard error has the reason."""
