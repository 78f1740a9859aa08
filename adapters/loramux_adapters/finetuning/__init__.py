"""Fine-tuning: data sets, recipes, the trainer process, and the job queue."""
