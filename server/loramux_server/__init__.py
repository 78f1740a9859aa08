"""The server: vLLM embedded once, its OpenAI layer on an engine that leases adapters and meters requests."""
