"""Multi-task inference on live video."""
