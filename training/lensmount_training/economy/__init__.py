"""How accuracy grows with labels, strategy by strategy, on somebody's own data."""
