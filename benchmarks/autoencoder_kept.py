"""What networks, libraries and routers say of each picture, kept for the rows that ask again.

Many rows of benchmarks/autoencoder.py differ only in how maps become a score. The slow part, the
maps, is then computed once.
"""

import hashlib

import torch
from torch import nn

from autoencoder.loaded import Loaded

MOST_BYTES = 2**30  # that are kept, of the modules used last


class Kept:
    """The results of modules by their inputs; those of the module used longest ago go first."""

    def __init__(self, most_bytes: int = MOST_BYTES):
        self.most_bytes, self.bytes = most_bytes, 0
        self.results: dict[str, dict[bytes, torch.Tensor]] = {}

    def share(self, loaded: Loaded) -> None:
        """Let all modules that `loaded` scores with take what is known, and keep what is new."""
        for model in loaded.models:
            self._wrap(model.network, f"{model.path}")
        for library in loaded.libraries:
            # router and maps ask for the same features of a picture, one after the other
            self._wrap(library.maps.features, f"{library.path} features", is_last_kept=True)
            self._wrap(library.maps, f"{library.path} maps")
            for part in ("patches", "router"):
                if getattr(library, part) is not None:
                    self._wrap(getattr(library, part), f"{library.path} {part}")

    def _wrap(self, module: nn.Module, name: str, is_last_kept: bool = False) -> None:
        """Keep what a module computes by `name`, or, of what is large, the last result alone."""
        compute = module.forward

        def forward(*inputs: torch.Tensor) -> torch.Tensor:
            results = self.results[name] = self.results.pop(name, {})  # the last used stands last
            key = _key(inputs)
            if key not in results:
                if is_last_kept:
                    self._forget(results)
                results[key] = compute(*inputs)
                self.bytes += results[key].nbytes
                self._forget_oldest()
            return results[key]

        module.forward = forward

    def _forget_oldest(self) -> None:
        while len(self.results) > 1 and self.bytes > self.most_bytes:
            self._forget(self.results.pop(next(iter(self.results))))

    def _forget(self, results: dict[bytes, torch.Tensor]) -> None:
        self.bytes -= sum(tensor.nbytes for tensor in results.values())
        results.clear()


def _key(inputs: tuple[torch.Tensor, ...]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in inputs:
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.digest()
