"""The same trivial model, `{"input": 4.0}` → its square, written for each server."""
