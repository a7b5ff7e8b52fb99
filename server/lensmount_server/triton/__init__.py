"""The engine in NVIDIA Triton Inference Servers: what asks it, and what is hosted there."""
