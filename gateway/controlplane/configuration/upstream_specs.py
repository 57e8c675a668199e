"""What may people write about how a backend's instances are met: by TLS, with which headers?"""

from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints, model_validator
from pydantic import WithJsonSchema as Shown

from gateway.controlplane.configuration.fields import FilePath, Host, Spec, fault, only, optional
from gateway.core.credentials import VARIABLE, refusal, source_fault
from gateway.core.header_fields import TOKEN


def _one_name(host: str) -> str:
    if "*" in host:
        raise fault("host", "is one name, without a *")
    return host.removeprefix("[").removesuffix("]")


class InstanceTlsSpec(Spec):
    """How instances at `https://` are met. Their certificates are verified, whatever is said."""

    ca: FilePath = optional(
        "A file with the certificates of the CAs that instances must be of, in PEM; left out: those"
        " that the system trusts. Lists of those revoked (CRL) in this file hold."
    )
    server_name: Annotated[Host, AfterValidator(_one_name)] = optional(
        "The name that their certificates are for, if not their URL's."
    )
    cert: FilePath = optional("A certificate that is shown to instances which ask for one (mTLS).")
    key: FilePath = optional("Its key, not encrypted.")

    @model_validator(mode="after")
    def _has_both(self) -> "InstanceTlsSpec":
        if len({"cert", "key"} & self.model_fields_set) == 1:
            raise fault("missing", "cert and key go together")
        return self


def _may_be_set(name: str) -> str:
    if why := refusal(name):
        raise fault("header", why)
    return name


def _source(value: Any) -> Any:
    if why := source_fault(value):
        raise fault("header_value", why)
    return value if isinstance(value, str) else dict(value)


def _once_each(headers: dict[str, Any]) -> dict[str, Any]:
    if len({name.lower() for name in headers}) < len(headers):
        raise fault("duplicate", "a header stands here twice")
    return headers


HeaderSource = Annotated[
    Any,
    AfterValidator(_source),
    Shown(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": 4096},
                only("env", {"type": "string", "pattern": f"^{VARIABLE}$"}),
                only("file", {"type": "string", "pattern": "^[^\\u0000]+$"}),
            ]
        }
    ),
]
SetHeader = Annotated[
    str, StringConstraints(pattern=TOKEN, max_length=256), AfterValidator(_may_be_set)
]
SetHeaders = Annotated[dict[SetHeader, HeaderSource], AfterValidator(_once_each)]
