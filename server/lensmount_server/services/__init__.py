"""The gRPC services: translate, call, translate back."""
