"""The process that speaks HTTP: the queue, the batcher, and the workers' other end."""
