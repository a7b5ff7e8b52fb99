"""Model repositories for other servers."""
