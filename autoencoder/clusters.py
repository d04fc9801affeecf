"""Clusters of pictures that nobody has labelled: k-means, how many there are, how pure they are."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from common.errors import UserError

MOST_CLUSTERS = 20  # that `auto` tries
# A lower silhouette is no structure (Kaufman and Rousseeuw, 1990): one cluster.
LEAST_SILHOUETTE = 0.25
STARTS = 5  # of k-means; the tightest result counts
CLUSTER = "cluster "  # what the names of clusters without class folders begin with


def cluster_pictures(vectors: np.ndarray, clusters: int | str, seed: int) -> np.ndarray:
    """The clusters (N,) of vectors (N, d): so many, or for "auto" as the silhouette says.

    Clusters are numbered by size, the largest first. Raises `UserError` for fewer vectors than
    clusters.
    """
    if clusters == "auto":
        return _best_clusters(vectors, seed)
    require_enough(clusters, len(np.unique(vectors, axis=0)))
    return _k_means(vectors, clusters, seed)


def require_enough(clusters: int | str, different: int) -> None:
    """Raise `UserError` for more clusters than `different` pictures."""
    if isinstance(clusters, int) and clusters > different:
        raise UserError(
            f"--clusters {clusters}: found {different} different pictures, expected at least as "
            "many as clusters"
        )


def titled(name: str) -> str:
    """A cluster's name as a line begins with it: a class folder's, or `cluster 1`."""
    return name if name.startswith(CLUSTER) else f"{CLUSTER}{name}"


def purity(clusters: Sequence[int], groups: Sequence[str]) -> float:
    """The share of pictures that belong to the group which is the most frequent in their cluster.

    (Manning, Raghavan and Schütze, "Introduction to Information Retrieval", 2008, 16.3.)
    """
    counts = cross_table(clusters, groups)
    return sum(max(row.values()) for row in counts.values()) / len(clusters)


def cross_table(clusters: Sequence[int], groups: Sequence[str]) -> dict[int, Counter[str]]:
    """How many pictures of each group are in each cluster."""
    table: dict[int, Counter[str]] = {}
    for cluster, group in zip(clusters, groups, strict=True):
        table.setdefault(int(cluster), Counter())[group] += 1
    return dict(sorted(table.items()))


def format_cross_table(names: Sequence[str], table: dict[int, Counter[str]]) -> str:
    """One line for each cluster: its name, its size and the groups in it, the largest first."""
    lines = []
    for cluster, counts in table.items():
        listed = ", ".join(
            f"{group or 'no group'} {count}" for group, count in counts.most_common()
        )
        lines.append(f"  {names[cluster] or 'all'}: {counts.total()} pictures: {listed}")
    return "\n".join(lines)


def _best_clusters(vectors: np.ndarray, seed: int) -> np.ndarray:
    """The k-means of the highest silhouette; one cluster where none is high enough."""
    from sklearn.metrics import silhouette_score  # a second that commands need not wait for

    most = min(MOST_CLUSTERS, len(np.unique(vectors, axis=0)) - 1)
    best, highest = np.zeros(len(vectors), dtype=np.int64), LEAST_SILHOUETTE
    for count in range(2, most + 1):
        labels = _k_means(vectors, count, seed)
        score = silhouette_score(vectors, labels)
        if score > highest:
            best, highest = labels, score
    return best


def _k_means(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans  # as above

    model = KMeans(count, n_init=STARTS, random_state=seed)
    labels = model.fit_predict(np.ascontiguousarray(vectors, dtype=np.float64))
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    return np.argsort(order)[labels]
