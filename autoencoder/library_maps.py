"""How far a picture's features are from the nearest that a library remembers.

The module runs in PyTorch and in an ONNX graph, with equal results.
"""

import torch
from torch import nn

from autoencoder.features import FeatureExtractor, picture_vectors
from autoencoder.filter_bank import average_neighbours
from ops.filters import sizes

LEVELS = ("patch", "image")
MOST_PRODUCTS = 2**23  # squared distances that are held at once: 32 MB
TENSORS = ("mean", "matrix", "memory")


class LibraryMaps(nn.Module):
    """The distance of each cell of pictures to the nearest vectors of their cluster's library.

    `mean` (K, D) and `matrix` (K, D, d) whiten features, and `memory` (K, M, d) has what each of K
    clusters remembers. The distance is the mean of those to the `neighbours` nearest vectors. At
    the level `image` a picture has one vector, and all its cells have one distance. The share
    `flattened` of what whole rows and columns have is left out, 0 to 1: see `flatten`.
    """

    kinds = ("library",)

    def __init__(
        self,
        features: FeatureExtractor,
        mean: torch.Tensor,
        matrix: torch.Tensor,
        memory: torch.Tensor,
        level: str = LEVELS[0],
        neighbours: int = 1,
        input_size: int = 192,
        flattened: float = 0.0,
    ):
        super().__init__()
        self.features, self.level, self.input_size = features, level, input_size
        self.flattened = flattened
        self.cell, self.multiple = features.cell, features.multiple
        self.neighbours = min(neighbours, int(memory.shape[1]))
        for name, tensor in zip(TENSORS, (mean, matrix, memory)):
            self.register_buffer(name, tensor.float().contiguous())
        # -2 m and |m|^2: the products of a query with them are squared distances but for |q|^2
        self.register_buffer("products", (-2 * self.memory).transpose(1, 2), persistent=False)
        self.register_buffer("squares", self.memory.square().sum(dim=2)[:, None], persistent=False)

    @property
    def clusters(self) -> int:
        """K."""
        return int(self.memory.shape[0])

    def forward(self, pictures: torch.Tensor, clusters: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, h, w) unit range, multiples of `multiple`, to distances (B, 1, h/cell, w/cell).

        `clusters` (B,) int64 says whose library each picture is compared with; None means the
        first one's. A cell's distance is averaged with its neighbours'.
        """
        distances = self.distances(self.features(pictures), clusters)
        if self.level == "image":
            return distances
        smooth = average_neighbours(distances)
        return flatten(smooth, self.flattened) if self.flattened else smooth

    def distances(
        self, features: torch.Tensor, clusters: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Features (B, D, h, w) to distances (B, 1, h, w)."""
        height, width = sizes(features)
        if self.level == "image":
            vectors = picture_vectors(features)[:, None]
            distances = self._nearest(vectors, clusters)[0]
            return distances[:, :, None, None].expand(-1, 1, height, width)
        vectors = features.flatten(start_dim=2).transpose(1, 2)
        return self._nearest(vectors, clusters)[0].reshape(-1, 1, height, width)

    def nearest(self, features: torch.Tensor, clusters: torch.Tensor | None = None) -> torch.Tensor:
        """The numbers (B, h, w) of the nearest remembered vectors, for the place they are from."""
        height, width = sizes(features)
        vectors = features.flatten(start_dim=2).transpose(1, 2)
        if self.level == "image":
            vectors = picture_vectors(features)[:, None]
            return self._nearest(vectors, clusters)[1][..., :1].expand(-1, height, width)
        return self._nearest(vectors, clusters)[1][..., 0].reshape(-1, height, width)

    def _nearest(
        self, vectors: torch.Tensor, clusters: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances (B, P) of vectors (B, P, D), and the nearest numbers (B, P, neighbours)."""
        if self.clusters == 1 or clusters is None:
            mean, matrix, products, squares, flat = (
                tensor[0]
                for tensor in (self.mean, self.matrix, self.products, self.squares, self.memory)
            )
            first = 0
        else:
            mean = self.mean[clusters][:, None]
            matrix, products, squares = (
                tensor[clusters] for tensor in (self.matrix, self.products, self.squares)
            )
            flat = self.memory.flatten(end_dim=1)
            first = clusters[:, None, None] * int(self.memory.shape[1])
        queries = (vectors - mean) @ matrix
        distances, numbers = [], []
        count, remembered = int(queries.shape[1]), int(self.memory.shape[1])
        at_once = max(1, MOST_PRODUCTS // remembered)
        for start in range(0, count, at_once):
            part = queries[:, start : min(start + at_once, count)]
            squared = part @ products + squares
            if self.neighbours == 1:
                found = squared.argmin(dim=2, keepdim=True)
            else:
                found = squared.topk(self.neighbours, dim=2, largest=False).indices
            # Computed again from differences: where a picture is in the library, the products
            # leave nothing but rounding errors, which differ between machines.
            chosen = flat[found + first]
            squared = (part[:, :, None] - chosen).square().sum(dim=3)
            distances.append(squared.sqrt().mean(dim=2))
            numbers.append(found)
        if len(distances) == 1:
            return distances[0], numbers[0]
        return torch.cat(distances, dim=1), torch.cat(numbers, dim=1)


def flatten(maps: torch.Tensor, share: float) -> torch.Tensor:
    """Maps (B, 1, h, w) less a share of what whole rows and columns have more than their map.

    Good pictures differ in that: their light falls off, or a border lies nearer. Without all of it,
    a large defect would be as faint as its surroundings.
    """
    rows, columns, whole = (maps.mean(dim=dim, keepdim=True) for dim in (3, 2, (2, 3)))
    return maps - share * (rows + columns - 2 * whole)
