"""What does this machine hold? Measured against real rivals, all sides in one run, in turns."""
