"""The measured sensitivity of a teacher: its plan, the measurement, what is kept of it."""
