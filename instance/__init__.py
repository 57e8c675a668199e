"""An instance: one model behind one route, in its own process, on its own port and device."""

from instance.api import ModelAPI, endpoint
from instance.requests import Context, Form, Request, RequestError, Response, Upload

__all__ = [
    "Context",
    "Form",
    "ModelAPI",
    "Request",
    "RequestError",
    "Response",
    "Upload",
    "endpoint",
]
