"""The vLLM engine: this package runs in the API process, `engine.worker` in vLLM's worker and scheduler processes.

Only this package imports vLLM, and every private name of vLLM that loramux relies on is used here.
"""
