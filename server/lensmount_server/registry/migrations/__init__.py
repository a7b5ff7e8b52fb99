"""Alembic's steps from each release's tables to the next one's."""
