"""Tokens in clusters of equal size, for the assistant's centroid head."""

import torch
from torch import Tensor


def balanced_clusters(embeddings: Tensor, count: int, rounds: int = 12) -> Tensor:
    """Order token ids so that each run of vocab / count of them is a cluster of similar output embeddings.

    k-means on the directions of `embeddings` (vocab, hidden); tokens are placed in the order of how sure they are,
    each in the nearest cluster that still has room. Returns (vocab,) int64, as `token_ordering` wants it.
    """
    points = torch.nn.functional.normalize(embeddings.detach().float() - embeddings.detach().float().mean(0), dim=-1)
    size = len(points) // count
    generator = torch.Generator().manual_seed(0)
    centres = points[torch.randperm(len(points), generator=generator)[:count]]
    for _ in range(rounds):
        members: list[list[int]] = [[] for _ in range(count)]
        near = points @ centres.T
        preferences = near.argsort(dim=-1, descending=True).tolist()
        for token in near.max(dim=-1).values.argsort(descending=True).tolist():
            cluster = next(cluster for cluster in preferences[token] if len(members[cluster]) < size)
            members[cluster].append(token)
        centres = torch.nn.functional.normalize(torch.stack([points[chosen].mean(0) for chosen in members]), dim=-1)
    return torch.tensor(members).flatten()
