"""What does a test need to drive a gateway as a user would?

Real processes, real sockets, real signals: `gateway` starts one, `origins` answers in the
instances' place, `wire` talks to either byte by byte, `load` sends at a rate, `corpora` reads
the shared request corpora. Nothing here imports the gateway: it is known by its contract only.
"""
