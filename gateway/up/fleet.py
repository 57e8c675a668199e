"""Who starts instances, and says where they are?

What the control process asks of any fleet. The one on this machine is `gateway.up.local_fleet`.
"""


class StartError(Exception):
    """An instance that did not become ready; the text is one clear line."""
