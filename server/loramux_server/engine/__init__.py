"""The only room that imports vLLM; every private name of it that loramux relies on is used here and nowhere else."""
