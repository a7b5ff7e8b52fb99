"""Worker processes that decode: forked by a zygote, watched by the server, frames handed over in shared memory."""
