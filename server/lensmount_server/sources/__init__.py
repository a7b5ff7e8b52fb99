"""Videos that the server pulls: added, supervised, reconnected, removed."""
