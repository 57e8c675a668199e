"""What does a Python program import to use a gateway?

    from gateway.client import AdminClient, Client

`Client` asks models for predictions, `AdminClient` looks at and edits what the gateway does;
`AsyncClient` and `AsyncAdminClient` are the same, awaited. There is nothing here but their names:
the command line imports `gateway.clients.admin` and starts without what predictions need.
"""

from gateway.clients.addresses import DEFAULT_URL, trust
from gateway.clients.admin import AdminClient, Applied, Weights, WeightsEdit, revision_tag
from gateway.clients.admin_connection import PLAIN, Answer, Change
from gateway.clients.async_admin import AsyncAdminClient
from gateway.clients.blocking import Client
from gateway.clients.errors import ClientError, Fault, Json, Refused, TimedOut, Unreachable
from gateway.clients.predictions import AsyncClient

__all__ = [
    "DEFAULT_URL",
    "PLAIN",
    "AdminClient",
    "Answer",
    "Applied",
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
