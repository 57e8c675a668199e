"""Whose certificates does a client of ours believe, whatever the Python that runs it?

From 3.13 on Python asks of every certificate all that RFC 5280 asks of a public CA's: a CA that
somebody made with openssl, or a company's own, is refused there for a field that says nothing of
whom to trust. Before, it asked that one which is named be a root.
"""

import ssl


def trusting(ca: str | None = None) -> ssl.SSLContext:
    """The context of a client that believes the CAs in the file `ca`, those below a root too; left
    out: whom the system believes. Raises what `ssl.create_default_context` does."""
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
