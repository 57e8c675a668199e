"""How do Python programs and the command line talk to a gateway?

To its admin API, and to the models behind it. Programs import what is here by `gateway.client`.
"""
