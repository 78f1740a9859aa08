"""Checks that every name of vLLM that this project uses is in a version of vLLM, with the same signature."""
