"""The server: one embedded vLLM engine, and its OpenAI API with adapter routing and usage metering."""
