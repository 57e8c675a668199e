"""Which etcd cluster counts where endpoints are of several."""

import pytest

from gateway.controlplane.store.etcd.clusters import Clusters, OtherCluster


def test_nothing_is_held_against_who_has_said_nothing() -> None:
    clusters = Clusters()
    assert (clusters.stranger("a"), clusters.divided()) == ("", "")
    clusters.note("a", "1")
    assert (clusters.stranger("a"), clusters.stranger("b"), clusters.divided()) == ("", "", "")


def test_the_cluster_of_most_endpoints_counts() -> None:
    clusters = Clusters()
    clusters.note("a", "1")
    clusters.note("b", "1")
    with pytest.raises(OtherCluster, match="c is of another etcd cluster than a"):
        clusters.note("c", "2")
    assert (clusters.stranger("a"), clusters.divided()) == ("", "")


def test_of_two_halves_none_counts() -> None:
    clusters = Clusters()
    clusters.note("a", "1")
    with pytest.raises(OtherCluster):
        clusters.note("b", "2")
    assert clusters.divided() == "a is of another etcd cluster than b"


def test_a_cluster_that_was_restored_counts_once_most_endpoints_are_of_it() -> None:
    clusters = Clusters()
    for endpoint in "abc":
        clusters.note(endpoint, "old")
    with pytest.raises(OtherCluster):
        clusters.note("a", "new")
    clusters.note("b", "new")
    assert (clusters.stranger("a"), clusters.divided()) == ("", "")
    clusters.note("c", "new")
    assert clusters.stranger("c") == ""
