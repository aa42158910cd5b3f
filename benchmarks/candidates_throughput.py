"""Mining candidates: probability maps of 480p per second and core.

    python -m benchmarks.candidates_throughput
    python -m benchmarks.candidates_throughput --quick

Claim: candidates are selected from at least 30 maps of 480x854 per second on one core, map in memory. Maps are smooth
blobs of several sizes, with an uncertain rim as propagation leaves it; half of the objects are small. The clock is
CPU time, so that other processes on the machine count little. The plain way (sort all keys of each region) is
measured beside, and gives the same points.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.reporting import arguments, finish
from rayvos.engines.candidates.selection import Candidate, CandidateRule, mine_candidates
from rayvos.masks.points import pixel_keys

SIZE = (480, 854)
GOAL = 30.0


def make_maps(count: int) -> list[NDArray[np.float32]]:
    """Return maps of one object each, of 8 to 240 pixels radius."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    maps = []
    for number in range(count):
        generator = np.random.default_rng(number)
        radius = generator.uniform(8, 60) if number % 2 else generator.uniform(60, 240)
        distance = np.hypot(x - generator.uniform(0, SIZE[1]), y - generator.uniform(0, SIZE[0]))
        steps = np.minimum((distance - radius) / generator.uniform(1, 6), 80)  # beyond, exp overflows
        maps.append((1 / (1 + np.exp(steps))).astype(np.float32))
    return maps


def mine_plainly(probability: NDArray[np.float32], seed: int, rule: CandidateRule) -> list[tuple[int, int]]:
    """Return the candidates' places by the definition: all pixels of a region in order of their keys."""
    high, low = probability >= rule.foreground_from, probability <= rule.background_to
    taken: list[tuple[int, int]] = []
    groups = ((high, rule.num_foreground), (~(high | low), rule.num_ambiguous), (low, rule.num_background))
    for purpose, (region, quota) in enumerate(groups, 1):
        indices = np.flatnonzero(region)
        ordered = indices[np.argsort(pixel_keys(4 * seed + purpose, indices))]
        found = 0
        for index in ordered.tolist():
            if found == quota:
                break
            place_y, place_x = divmod(index, region.shape[1])
            if all((place_x - a) ** 2 + (place_y - b) ** 2 >= rule.distance_px**2 for a, b in taken):
                taken.append((place_x, place_y))
                found += 1
    return taken


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "").parse_args()
    count = 4 if options.quick else 24
    rule = CandidateRule()
    maps = make_maps(count)
    mined: list[list[Candidate]] = []
    seconds, plain_seconds = [], []
    for seed, probability in enumerate(maps):  # interleaved: both see the same load
        started = time.process_time()
        mined.append(mine_candidates(probability, seed, rule))
        between = time.process_time()
        plain = mine_plainly(probability, seed, rule)
        plain_seconds.append(time.process_time() - between)
        seconds.append(between - started)
        if plain != [(candidate.x, candidate.y) for candidate in mined[-1]]:
            raise SystemExit(f"map {seed}: other candidates than by the definition")
    rate, plain_rate = count / sum(seconds), count / sum(plain_seconds)
    print(f"{count} maps of {SIZE[0]}x{SIZE[1]}, {sum(map(len, mined))} candidates, the same as by the definition")
    print(
        f"mine_candidates    {rate:7.1f} maps/s of CPU time (median {1000 * statistics.median(seconds):.1f} ms a map)"
    )
    print(f"plain definition   {plain_rate:7.1f} maps/s")
    numbers = {"maps": count, "maps_per_s": rate, "plain_maps_per_s": plain_rate, "goal": GOAL}
    finish(options, {"candidate_maps_over_goal": rate / GOAL, "candidates_over_plain": rate / plain_rate}, numbers)


if __name__ == "__main__":
    main()
