"""What an adapter is: backbones as segments, edits, heads, the package and its checks."""
