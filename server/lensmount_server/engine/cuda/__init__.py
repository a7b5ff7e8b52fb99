"""The engine on a GPU: adapters in slots, one kernel for base weights and edits, graphs for the shared trunk.

`docs/gpu.md` says how it works and what of it has run where.
"""
