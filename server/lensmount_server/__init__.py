"""Frames in, results out: video, engine, registry and the gRPC services."""
