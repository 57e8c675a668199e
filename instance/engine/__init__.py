"""The process that holds the model, and the loop that feeds it."""
