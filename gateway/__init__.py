"""The gateway: holds the route table, splits traffic by weight, checks health, forwards.

Three folders are its three guarantees: `core` is what can be proved without running
anything, `dataplane` what happens to a request, `controlplane` what happens to an edit.
"""
