"""What does a Python program import to use a gateway?

    from gateway.client import AdminClient, Client

`Client` asks models for predictions, `AdminClient` looks at and edits what the gateway does;
`AsyncClient` and `AsyncAdminClient` are the same, awaited. There is nothing here but their names:
the command line imports `gateway.admin_client` and starts without what predictions need.
"""

from gateway.admin_client import AdminClient, Weights, WeightsEdit, revision_tag
from gateway.admin_connection import DEFAULT_URL, PLAIN, Answer, Change
from gateway.async_admin_client import AsyncAdminClient
from gateway.async_client import AsyncClient
from gateway.blocking_client import Client
from gateway.client_addresses import trust
from gateway.client_errors import ClientError, Fault, Json, Refused, TimedOut, Unreachable

__all__ = [
    "DEFAULT_URL",
    "PLAIN",
    "AdminClient",
    "Answer",
    "AsyncAdminClient",
    "AsyncClient",
    "Change",
    "Client",
    "ClientError",
    "Fault",
    "Json",
    "Refused",
    "TimedOut",
    "Unreachable",
    "Weights",
    "WeightsEdit",
    "revision_tag",
    "trust",
]
