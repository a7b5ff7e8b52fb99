"""The demo: what it draws, trains, serves and shows."""
