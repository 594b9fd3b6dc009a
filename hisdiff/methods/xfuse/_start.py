"""Where training starts: counts of spots without an image, and the factors in them."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import NMF
from torch.distributions import NegativeBinomial

from hisdiff._training._adamw import AdamW
from hisdiff._training._loop import generator_for

_BATCH = 100
_RATE = 0.01
_LEAST = 1e-3
_MAX_LOG = 4.0


def fit_spots(counts: np.ndarray, *, seed: int, n_steps: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Fit one negative binomial to all spots, gene by gene.

    Parameters
    ----------
    counts
        ``(n, G)``.
    seed
        Decides the batches.
    n_steps
        Steps of Adam from the estimate by moments.

    Returns
    -------
    ``(G,)`` log rate and logit: counts have mean ``exp(log rate + logit)`` and variance mean times ``1 + exp(logit)``.
    """
    mean = np.maximum(counts.mean(axis=0, dtype=np.float64), 1 / (2 * len(counts)))
    over = np.clip(counts.var(axis=0, dtype=np.float64) / mean - 1, 0.05, None)
    log_rate = torch.tensor(np.log(mean / over), dtype=torch.float32, requires_grad=True)
    logit = torch.tensor(np.log(over), dtype=torch.float32, requires_grad=True)
    optimizer = AdamW([log_rate, logit], learning_rate=_RATE)
    values = torch.from_numpy(counts)
    for step in range(n_steps):
        rows = torch.randint(len(values), (min(_BATCH, len(values)),), generator=generator_for(seed, step))
        likelihood = NegativeBinomial(1e-8 + log_rate.exp(), logits=logit, validate_args=False)
        loss = -likelihood.log_prob(values[rows]).mean(dim=0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return log_rate.detach().numpy(), logit.detach().numpy()


def profiles(counts: np.ndarray, n: int, *, seed: int) -> np.ndarray:
    """Return the log of ``n`` factors of the counts over the mean profile, float32 ``(n, G)``."""
    totals = counts.sum(axis=1, keepdims=True)
    share = counts[totals[:, 0] > 0] / totals[totals[:, 0] > 0]
    usual = np.maximum(share.mean(axis=0), _LEAST / share.shape[1])
    # Dividing by the square root keeps the few highest genes from deciding alone.
    weight = 1 / np.sqrt(usual)
    factors = NMF(min(n, *share.shape), init="nndsvda", random_state=seed % 2**32, max_iter=300, tol=1e-3)
    found = factors.fit(share * weight).components_ / weight
    found = found / found.sum(axis=1, keepdims=True)
    relative = np.log(np.maximum(found, 0.02 * usual) / usual)
    short = n - len(relative)
    return np.pad(np.clip(relative, -_MAX_LOG, _MAX_LOG), ((0, short), (0, 0))).astype(np.float32)
