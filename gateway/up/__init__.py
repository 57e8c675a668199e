"""`headgate up`: instances and gateway together."""
