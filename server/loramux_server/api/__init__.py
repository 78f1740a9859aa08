"""HTTP API: administration, fine-tuning and usage. vLLM itself serves chat, completions, responses and messages."""
