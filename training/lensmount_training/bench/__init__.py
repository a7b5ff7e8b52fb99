"""What training costs here, beside the loops that people write today: both sides in one run, in turns."""
