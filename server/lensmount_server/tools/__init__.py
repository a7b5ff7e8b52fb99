"""Work on packages without a server: `lensmount adapters check` and `diff`."""
