"""The bundled models, the mini tasks, and the recipe that made them."""
