"""Is a published generator what the released sums lead to? Asked by every hospital before it signs.

In a run with a public start the vector, the policy and the start lead to one generator, but for the last digits of
floating point. A hospital makes that generator itself and compares:

* every byte of the file that is not a weight, with the file that it would write (`models.keras_file`): no other layer,
  no function, no comment, no gap can hold anything;
* tables, the start's generator and all constants: exactly;
* the transfer: on its public grid, each weight its own value rounded (`adaptation.rounding`);
* the chances of the pool's pictures: on their grid, against those that follow from the published transfer;
* the pictures of a public grid of noise and labels, drawn with the own and with the published transfer.

Nothing in the file decides what is run, built or allocated. The configuration is normalised in three ways before it is
compared: layers without a name of their own are numbered within their network, dates are constant, and places in memory
are left out.
"""

from __future__ import annotations

import keras
import numpy as np

from fedgan_secure.adaptation import Adaptation, cumulated
from fedgan_secure.networks import KerasForm, draw_levels
from fedgan_secure.statistics import CHANCES_GRID, CHANCES_SLACK, TRANSFER_GRID, TRANSFER_SLACK, strays

GRID_PICTURES, GRID_SEED = 64, 20_261
"""How many pictures are compared, and the seed of their noise; their labels take turns."""
MOST_MEAN_LEVELS, MOST_LEVELS = 0.5, 6.0
"""Two rounded transfers may differ by so many grey levels: the mean over the pictures, and the largest of all."""
KEPT = 64


def objections_to_generator(
    data: bytes, adaptation: Adaptation, vector: np.ndarray
) -> tuple[list[str], keras.Model | None]:
    """Compare a file with the generator that a vector leads to.

    Args:
        data: the ``.keras`` file, of a party that is not trusted.
        adaptation: what this party itself found the vector's release to lead to.
        vector: float32[d].

    Returns:
        The objections, and the published generator, built by this party, where there are none.
    """
    own = adaptation.generator(vector)
    form = KerasForm.of(own)
    weights = form.weights_of(data)
    if weights is None:
        return [f"the generator's file has {len(data)} bytes, expected {form.size}"], None
    if form.file(weights) != data:
        return ["the generator's file differs in more than its weights: other layers, or bytes that mean nothing"], None
    if not all(np.isfinite(values).all() for values in weights):
        return ["the generator's file holds a weight that is NaN or infinite"], None
    mine = own.get_weights()
    if all(_same(one, other) for one, other in zip(mine, weights, strict=True)):
        return [], own
    moved = [id(weight) for weight in adaptation.transfer.weights]
    places = {id(weight): index for index, weight in enumerate(own.weights)}
    transfer = [places[key] for key in moved]
    chances = places[id(own.get_layer("a_chances").weights[0])]
    found = [
        f"the table {form.gaps[index].path} of the generator is not the one that the released sums lead to"
        for index, (one, other) in enumerate(zip(mine, weights, strict=True))
        if index not in (*transfer, chances) and not _same(one, other)
    ]
    found += _objections_to_transfer([weights[index] for index in transfer], adaptation)
    if found:
        return found, None
    published = adaptation.with_transfer([weights[index] for index in transfer])
    found += _objections_to_chances(weights[chances], published.chances(vector))
    model = published.generator(vector)
    found += _objections_to_pictures(own, model, adaptation)
    if found:
        return found, None
    model.set_weights(weights)
    return [], model


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are equal to the bit: minus zero is not zero."""
    return one.tobytes() == other.tobytes()


def _objections_to_transfer(weights: list[np.ndarray], adaptation: Adaptation) -> list[str]:
    wrong = sum(
        strays(values, own, TRANSFER_GRID, TRANSFER_SLACK)
        for values, own in zip(weights, adaptation.fitted, strict=True)
    )
    return [f"{wrong} weights of the transfer are not what the released sums lead to"] if wrong else []


def _objections_to_chances(table: np.ndarray, chances: np.ndarray) -> list[str]:
    wrong = strays(table, cumulated(chances), CHANCES_GRID, CHANCES_SLACK)
    return [f"{wrong} chances of the pool's pictures are not what the released sums lead to"] if wrong else []


def _objections_to_pictures(own: keras.Model, published: keras.Model, adaptation: Adaptation) -> list[str]:
    """Draw both with the same tables: what differs is the transfer alone."""
    spec = adaptation.layout.spec
    published.get_layer("a_chances").set_weights(own.get_layer("a_chances").get_weights())
    labels = np.arange(GRID_PICTURES, dtype=np.int32) % spec.classes if spec.conditional else None
    one, other = (draw_levels(model, spec, labels, GRID_PICTURES, GRID_SEED) for model in (own, published))
    apart = np.abs(one - other)
    mean, most = float(apart.mean()), float(apart.max())
    if mean > MOST_MEAN_LEVELS or most > MOST_LEVELS or not np.isfinite(mean):
        return [
            f"the published generator's pictures differ from the own ones by {mean:.2f} grey levels on average and "
            f"{most:.1f} at most, expected at most {MOST_MEAN_LEVELS} and {MOST_LEVELS}"
        ]
    return []
