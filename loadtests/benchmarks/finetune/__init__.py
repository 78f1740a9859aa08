"""Quality of fine-tuning jobs, and serving while one runs."""
