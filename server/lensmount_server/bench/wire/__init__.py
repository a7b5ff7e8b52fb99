"""What a request costs between a client and the engine, beside a real Triton Inference Server."""
