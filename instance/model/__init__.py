"""The processes that run what a user wrote: the model, its hooks, its bodies."""
