"""The judge of a release: however often it looks, it stops hardly a good version and nearly every bad one."""

import math

import numpy as np
import pytest

from mlops_kit.deployment.releases.gates import FAIL, HOLD, PASS, Step, judge_errors, judge_scores
from mlops_kit.deployment.releases.sequential import Sums, _beaten, error_evidence, mean_bounds, rate_bounds, trials_for

RUNS, REQUESTS, EVERY, SHARE, ALPHA = 2000, 20_000, 200, 0.1, 0.05


def simulate(rate: float, changed: float, shares: list[float]) -> np.ndarray:
    """Errors and requests of both versions at each look, cumulated within a step: (4, runs, steps, looks)."""
    draw, looks = np.random.default_rng(11), REQUESTS // EVERY // len(shares)
    sent = draw.binomial(EVERY, np.array(shares)[:, None], (RUNS, len(shares), looks))
    errors, theirs = draw.binomial(sent, changed), draw.binomial(EVERY - sent, rate)
    return np.cumsum([errors, theirs, sent, EVERY - sent], axis=3)


def stopped(errors: np.ndarray, theirs: np.ndarray, share: float) -> np.ndarray:  # One a run
    """Runs that the sequential test ever stops."""
    pairs, place = np.unique(np.stack([errors.ravel(), theirs.ravel()]), axis=1, return_inverse=True)
    acts = np.array([error_evidence([(new, old, share)]) >= 1 / ALPHA for new, old in pairs.T.tolist()])
    return acts[place].reshape(errors.shape).any(axis=-1)


def ordinary(errors: np.ndarray, theirs: np.ndarray, sent: np.ndarray, rest: np.ndarray) -> np.ndarray:  # One a run
    """Runs that an ordinary z-test at the same level ever stops, looked at as often."""
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (errors + theirs) / (sent + rest)
        apart = errors / sent - theirs / rest
        z = apart / np.sqrt(pooled * (1 - pooled) * (1 / sent + 1 / rest))
    return (z > 1.645).any(axis=-1)


@pytest.mark.parametrize("rate", [0.001, 0.005, 0.02])
def test_where_nothing_changed_the_sequential_test_stops_hardly_any_release(rate):
    counts = simulate(rate, rate, [SHARE])[:, :, 0]
    assert stopped(*counts[:2], SHARE).mean() < 0.01
    assert ordinary(*counts).mean() > 0.2, "a repeated z-test stops more than every fifth"


@pytest.mark.parametrize(
    ("rate", "changed", "caught"),
    [(0.001, 0.01, 0.99), (0.005, 0.02, 0.99), (0.005, 0.05, 0.999), (0.02, 0.04, 0.94)],
)
def test_a_version_that_errs_more_often_is_caught(rate, changed, caught):
    errors, theirs, *_ = simulate(rate, changed, [SHARE])[:, :, 0]
    assert stopped(errors, theirs, SHARE).mean() >= caught


def test_evidence_is_a_fair_bet_at_every_share():
    """Exactly: whatever was seen, the next error changes it by nothing on average (Ville's inequality)."""
    draw = np.random.default_rng(3)
    for _ in range(300):
        before = (*draw.integers(0, 9, 2).tolist(), float(draw.uniform(0.02, 0.9)))
        share = float(draw.uniform(0.01, 0.95))
        now = error_evidence([before])
        mine, other = (error_evidence([before, step]) for step in [(1, 0, share), (0, 1, share)])
        assert share * mine + (1 - share) * other == pytest.approx(now, rel=1e-9)
        assert mine > now > other


def test_a_mean_is_bounded_by_fair_bets():
    """Exactly, for numbers that are 0 or 1: three of them are worth at most the stake, at every mean, on both sides."""
    for mean in (0.002, 0.02, 0.3, 0.5, 0.98):
        for sign in (1, -1):
            chances = [(hits, math.comb(3, hits) * mean**hits * (1 - mean) ** (3 - hits)) for hits in range(4)]
            worth = sum(p * math.exp(_beaten(Sums(3, hits, hits), mean, 0, 1, sign)) for hits, p in chances)
            assert worth <= 1 + 1e-12, (mean, sign)


def test_over_the_steps_of_a_canary_evidence_is_added_up():
    """A ramp of four steps, judged by the gate itself as the release does: each step with its own share."""
    shares, found = [0.05, 0.25, 0.5, 1.0], {}
    for name, changed in (("alike", 0.005), ("worse", 0.02)):
        counts, failed = simulate(0.005, changed, shares)[:, :200], 0
        for run in counts[:, :, :, 9::10].transpose(1, 2, 3, 0).tolist():  # Every tenth look
            failed += fails(run, shares)
        found[name] = failed / 200
    early, late = (Step(0.2, {"errors": new, "requests": 500}, {"errors": 8, "requests": 2000}) for new in (7, 5))
    verdicts = [judge_errors(steps, 0.01, ALPHA, 200).verdict for steps in ([early], [late], [early, early, late])]
    assert verdicts == [PASS, PASS, FAIL], "what three steps say together, none says alone"
    assert found["alike"] <= 0.01 and found["worse"] >= 0.97, found


def fails(run: list, shares: list[float]) -> bool:
    done: list[Step] = []
    for share, looks in zip(shares, run, strict=True):
        for errors, theirs, sent, rest in looks:
            step = Step(share, {"errors": errors, "requests": sent}, {"errors": theirs, "requests": rest})
            if judge_errors([*done, step], 0.01, ALPHA, 200).verdict == FAIL:
                return True
        done.append(step)
    return False


def test_bounds_of_a_rate_and_of_a_mean_hold_at_all_times():
    """Rare errors and scores of three shapes; each stream is looked at twenty times."""
    draw, looks, runs = np.random.default_rng(5), np.arange(50, 1001, 50), 150
    rates, missed = (0.002, 0.05, 0.5), {}
    for rate in rates:
        hits = np.cumsum(draw.random((runs, 1000)) < rate, axis=1)[:, looks - 1].tolist()
        bounds = [[rate_bounds(hit, int(n)) for hit, n in zip(run, looks, strict=True)] for run in hits]
        missed[rate] = np.mean([any(not low <= rate <= high for low, high in run) for run in bounds])
    shapes = {"beta": draw.beta(2, 8, (runs, 1000)), "rare": (draw.random((runs, 1000)) < 0.02) * 1.0}
    for (name, values), mean in zip(shapes.items(), (0.2, 0.02), strict=True):
        total, squares = np.cumsum(values, axis=1), np.cumsum(values**2, axis=1)
        bounds = [
            [mean_bounds(Sums(int(n), t[n - 1], q[n - 1])) for n in looks[::4]]
            for t, q in zip(total, squares, strict=True)
        ]
        missed[name] = np.mean([any(not low <= mean <= high for low, high in run) for run in bounds])
    assert max(missed.values()) <= ALPHA, missed


def test_scores_that_moved_are_caught_and_others_are_left_alone():
    draw, told = np.random.default_rng(9), {}
    for name, moved in (("alike", 0.0), ("moved", 0.2)):
        verdicts = [
            judge_scores(scored(draw, 400, moved), scored(draw, 3600, 0), 0.1, ALPHA).verdict for _ in range(200)
        ]
        told[name] = {verdict: verdicts.count(verdict) for verdict in (PASS, HOLD, FAIL)}
    assert told["alike"][PASS] >= 199 and told["moved"][FAIL] >= 199, told


def scored(draw: np.random.Generator, requests: int, moved: float) -> dict:
    scores = np.minimum(draw.beta(2, 8, requests) + moved, 1)
    kept = {"counts": [requests], "sum": float(scores.sum()), "sum_squares": float((scores**2).sum())}
    return {"scores": kept}


def test_a_promise_of_how_many_requests_are_missing_is_kept():
    """Whoever was told to send so many more is not told to send more again."""
    for margin, hits in ((0.01, 0), (0.01, 3), (0.05, 1)):
        need = trials_for(margin, hits)
        assert rate_bounds(hits, need)[1] <= margin < rate_bounds(hits, int(need * 0.9))[1]
    thin = judge_errors([Step(1.0, {"errors": 0, "requests": 30}, {})], 0.01, ALPHA, 200, last=True)
    full = judge_errors([Step(1.0, {"errors": 0, "requests": 30 + thin.missing}, {})], 0.01, ALPHA, 200, last=True)
    assert (thin.verdict, full.verdict) == (HOLD, PASS)
