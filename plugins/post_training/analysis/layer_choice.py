"""Which layer's direction tells two classes apart best, asked of the training texts alone.

The held-out texts judge the direction that was chosen, so that they must have no say in the choice. The training texts
are dealt into folds; each fold is projected on the direction that the others give, and the area under the ROC curve is
over all of them.
"""

from __future__ import annotations

import numpy as np

from harness.plugin import HarnessError

from .directions import Readings, areas

FOLDS = 5


def cross_validated(source: Readings, readings: Readings) -> np.ndarray:
    """Area under the ROC curve after every layer, of training texts that a direction was not computed from, [n_layers].

    Args:
        source: what directions are computed on. readings: of the same texts, what they are tested on.

    Raises:
        HarnessError: there are too few training texts.
    """
    train = np.flatnonzero(readings.train)
    fold, label = folds(readings.label[train], readings.group[train], readings.model), readings.label[train]
    along = np.empty((len(train), readings.n_layers))
    for layer in range(readings.n_layers):
        trained, tested = (x.residual[layer, train].astype(np.float64) for x in (source, readings))
        for i in range(fold.max() + 1):
            rest, here = fold != i, fold == i
            true, false = trained[rest & label].mean(0), trained[rest & ~label].mean(0)
            vector, middle = true - false, (true + false) / 2
            size = np.linalg.norm(vector)
            along[here, layer] = (tested[here] - middle) @ vector / size if size > 0 else 0.0
    found: np.ndarray = areas(along, label[None])[0]
    return found


def folds(label: np.ndarray, group: np.ndarray, model: str) -> np.ndarray:
    """The fold of each text, int [n]: groups are dealt out whole, for texts of one group are alike.

    Where that would leave nothing of one label to compute a direction from (a group may be all there is of it), the
    texts of each label are dealt out instead.

    Args:
        label: bool [n]. group: int [n].

    Raises:
        HarnessError: one label has a single text.
    """
    place = np.unique(group, return_inverse=True)[1]
    found = place % FOLDS
    if all(len(np.unique(label[found != i])) == 2 for i in np.unique(found)):
        return found
    n = min(FOLDS, int(label.sum()), int((~label).sum()))
    if n < 2:
        raise HarnessError(
            f"of the training texts one only is labelled {str(label.sum() == 1).lower()}, which is too few to choose "
            f"a layer of {model} by; give the layer, or more texts of the split train."
        )
    found[label], found[~label] = np.arange(label.sum()) % n, np.arange((~label).sum()) % n
    return found
