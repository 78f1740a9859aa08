"""Fine-tuning as a service: files that came, jobs that wait, run and end, and what they leave. Nothing is lost."""
