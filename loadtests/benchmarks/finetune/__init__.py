"""What fine-tuning jobs achieve, and what serving loses while one runs."""
