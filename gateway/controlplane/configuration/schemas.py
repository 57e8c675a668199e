"""What may people write in a configuration file, and what of it is kept?

Models that turn untrusted JSON into the canonical document which `gateway.core.table` reads:
shorthands are expanded, only what was said is kept, and defaults stay unsaid. The field
descriptions are the manual of the file. Its sections are the modules beside this one, and
`settings`. Whether the parts fit together is `checks`.
"""

from gateway.controlplane.configuration.backend_specs import BackendSpec
from gateway.controlplane.configuration.fields import Name, Spec, optional
from gateway.controlplane.configuration.key_specs import KeySpec
from gateway.controlplane.configuration.limit_specs import LimitsSpec
from gateway.controlplane.configuration.route_specs import RouteSpec
from gateway.controlplane.configuration.settings import Settings


class File(Spec):
    """A Headgate configuration file."""

    gateway: Settings = optional("How the gateway itself is set up; read at start.")
    backends: dict[Name, BackendSpec] = optional("Model versions and where their instances are.")
    routes: dict[Name, RouteSpec] = optional("What clients may ask for, and who answers.")
    keys: dict[Name, KeySpec] = optional("Who may ask, by name.", min_length=1)
    default_limits: LimitsSpec = optional("How much each key may that has no limits of its own.")
