"""OpenAI's files and fine-tuning jobs API."""
