"""A sum under CKKS (Cheon et al. 2017) by TenSEAL, in a process of its own: beside TensorFlow it dies of SIGSEGV.

    python -m experiments.pride.ckks < in.npz > out.npz

in: `steps` float64 [parties, n], `examples` int64 [parties]; out: `mean` float64 [n], and `cost`: seconds of a party,
of the coordinator, and bytes that a party sends. Polynomials have degree 8192; every party has the key.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import numpy as np
import tenseal

from experiments.pride.watch import Watch

SLOTS = 4096  # numbers in a ciphertext


def main() -> None:
    """Read, add, write."""
    given = np.load(io.BytesIO(sys.stdin.buffer.read()))
    mean, cost = summed(list(given["steps"]), given["examples"])
    np.savez(sys.stdout.buffer, mean=mean, cost=np.array(cost))


def summed(steps: Sequence[np.ndarray], examples: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float]]:
    """The mean, and what it took."""
    watch, number = Watch(len(steps)), len(steps[0])
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 2 * SLOTS, coeff_mod_bit_sizes=[60, 40, 40, 60])
    context.global_scale = 2**40
    share = examples / examples.sum()

    def sealed(place: int) -> list[bytes]:
        values = steps[place] * share[place]
        some = [values[at : at + SLOTS] for at in range(0, number, SLOTS)]
        return [tenseal.ckks_vector(context, one).serialize() for one in some]

    def added(every: Sequence[list[bytes]]) -> list[bytes]:
        found = []
        for column in zip(*every, strict=True):
            total = tenseal.ckks_vector_from(context, column[0])
            for one in column[1:]:
                total += tenseal.ckks_vector_from(context, one)
            found.append(total.serialize())
        return found

    def read(totals: list[bytes]) -> np.ndarray:
        return np.concatenate([np.array(tenseal.ckks_vector_from(context, one).decrypt()) for one in totals])

    every = [watch.party(place, sealed, place) for place in range(len(steps))]
    totals = watch.coordinator(added, every)
    mean = watch.party(0, read, totals)
    cost = watch.cost(sum(map(len, every[0])))
    return mean, (cost.party, cost.coordinator, cost.sent)


if __name__ == "__main__":
    main()
