"""The engine on CPUs: segment ranges compiled with fixed weights, run side by side on the cores."""
