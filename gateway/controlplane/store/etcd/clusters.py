"""Which etcd cluster counts where the endpoints that were configured are of several?

That of most of them: whoever is given the same list comes to the same end, so that no two gateways
of one table go to two clusters. Where none has most, none counts. Asks nobody.
"""


class OtherCluster(OSError):
    """Who answered is of another cluster than most of the endpoints are."""


class Clusters:
    """What endpoints have said of which cluster they are; nothing is held against one that has said
    nothing yet."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}

    def note(self, endpoint: str, cluster: str) -> None:
        """Remembers that `endpoint` is of `cluster`. OtherCluster where that is not the one of most
        endpoints."""
        self._of[endpoint] = cluster
        if why := self.stranger(endpoint):
            raise OtherCluster(why)

    def stranger(self, endpoint: str) -> str:
        """Why what `endpoint` says does not count; empty where it does."""
        own = self._of.get(endpoint)
        if own is None:
            return ""
        clusters = list(self._of.values())
        for other, cluster in self._of.items():
            if cluster != own and clusters.count(cluster) >= clusters.count(own):
                return f"{endpoint} is of another etcd cluster than {other}"
        return ""

    def divided(self) -> str:
        """Why no endpoint counts; empty where one does, or none has said anything."""
        strangers = [self.stranger(each) for each in self._of]
        return strangers[0] if strangers and all(strangers) else ""
