"""Pictures in, adapter package out."""
