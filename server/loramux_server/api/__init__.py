"""The HTTP surface that is ours: vLLM serves chat, completions, responses and messages by itself."""
