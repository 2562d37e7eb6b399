"""Whether embeddings that were learned without labels still tell images apart, and classes.

Legend: N images, B batch, D dimensions, C classes, K neighbours.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import InputError
from core.metrics import confusion_matrix, macro_recall

Ints = npt.NDArray[np.int64]

# Of the features' `spread`: below it, their mean cosine is above 0.99, and images can hardly be told apart. Features of
# networks at random have 0.35 to 0.55, of ImageNet's 0.8 to 0.9 (seven networks, 64 lesions). Those of projections say
# nothing: batch norms before them blow up whatever is left, and the spread stays near 1 (decision 25).
LEAST_SPREAD = 0.1
NEIGHBOURS = 20
_TEMPERATURE = 0.07  # of the neighbours' votes; Wu et al. 2018, "Unsupervised feature learning", section 3.4
_AT_ONCE = 1024  # images whose neighbours are looked for at once: 40 MB of similarities with 10,000 others


class CollapseError(InputError):
    """The network gives nearly the same for all images: going on would give weights that are worth nothing."""


def spread(embeddings_BD: Tensor) -> Tensor:
    """Standard deviation of embeddings scaled to length 1, the mean over dimensions, times the root of D.

    Returns:
        Without axes: 0 if all are the same, near 1 if they point everywhere alike (Chen, He 2021, section 4.1).
    """
    directions_BD = F.normalize(embeddings_BD.float(), dim=1)
    return directions_BD.std(0).mean().mul(embeddings_BD.shape[1] ** 0.5)


def neighbour_recall(features_ND: Tensor, labels_N: Ints, groups_N: Ints, num_classes: int) -> float:
    """Macro recall of what each image's nearest neighbours say of it, those of its own lesion left out.

    The K nearest by the cosine vote with exp(cosine / temperature), and each class's votes are divided by its
    frequency: a neighbour that is a melanoma says more than one of many naevi, as in `argmax p / prior`.

    Args:
        features_ND: Embeddings, on any device.
        labels_N: Classes.
        groups_N: A number for each image's lesion.
        num_classes: C.

    Returns:
        In [0, 1]; 1 / C is chance.
    """
    device = features_ND.device
    directions_ND = F.normalize(features_ND.float(), dim=1)
    labels, groups = (torch.from_numpy(each).to(device) for each in (labels_N, groups_N))
    frequencies_C = torch.bincount(labels, minlength=num_classes).clamp_min(1).float()
    predictions = []
    for rows in torch.split(torch.arange(len(labels), device=device), _AT_ONCE):
        cosines_BN = directions_ND[rows] @ directions_ND.T
        cosines_BN.masked_fill_(groups[rows, None] == groups[None, :], -torch.inf)
        nearest = cosines_BN.topk(min(NEIGHBOURS, len(labels)))
        weights_BK = torch.exp((nearest.values - 1) / _TEMPERATURE)  # 0 for those of the own lesion
        votes_BC = torch.zeros(len(rows), num_classes, device=device)
        votes_BC.scatter_add_(1, labels[nearest.indices], weights_BK)
        predictions.append((votes_BC / frequencies_C).argmax(1))
    return macro_recall(confusion_matrix(labels_N, torch.cat(predictions).cpu().numpy(), num_classes))
