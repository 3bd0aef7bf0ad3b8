"""Fine-tuning, evaluation, and what they will take."""
