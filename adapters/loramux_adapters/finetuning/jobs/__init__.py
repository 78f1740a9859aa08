"""Fine-tuning as a service: uploaded files, a queue of jobs, and their results; all survive a restart."""
