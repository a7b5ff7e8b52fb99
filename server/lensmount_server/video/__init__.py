"""Video in: addresses, readers, decoders, and the mailbox that hands frames to asyncio."""
