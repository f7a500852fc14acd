"""How the companion of a closed-form head is trained: on all that is stored, or its rows of the batch's classes.

All samples are as the store gives them back, those of the batch too: of exact samples beside decoded ones it would
learn that they are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_kernels.arrays import Bools, Floats

from edge_cl.anchor import Whitened
from edge_cl.cholesky import inverse_cholesky
from edge_cl.companion import weigh
from edge_cl.devices import namespace
from edge_cl.ewc import with_one
from edge_cl.learning.task import Task
from edge_cl.refine import Objective, cross_entropy, minimise

SHARES = (2 / 3, 1 / 3, 0.0)  # of the closed form: half of the answer, a part of it, or none
PULLS = (0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)  # weight decay for each sample, tried from the firmest on
FIRST_STEPS = 20  # of L-BFGS for each: the losses of the held-out slice then hardly change any more


@dataclass(frozen=True)
class Accompanied:
    """What training came to.

    Attributes:
        rows: (K, D + 1) of the companion in feature space, trained on all samples.
        unseen: (K, D + 1) of the one that was not trained on the held-out slice.
        pull: its weight decay for each sample.
        share: of the closed form.
    """

    rows: Floats
    unseen: Floats
    pull: float
    share: float


@dataclass(frozen=True)
class _Problem:
    """Samples in the companion's coordinates.

    Attributes:
        inputs: (N, R).
        basis: (R, D + 1) of the coordinates' span, or None: they are the coordinates.
        offsets: (N, K) logits before training, minus infinity for classes of other tasks.
        weights: (N,) how many samples of its class, of those seen, each stands for.
    """

    inputs: Floats
    basis: Floats | None
    offsets: Floats
    weights: Floats


def train_whole(task: Task, space: Whitened, alone: Floats) -> Accompanied | None:
    """Return the companion of all samples; None where the held-out slice likes the closed form better alone.

    The weight decay is chosen on the held-out slice, which then joins the rest. Exact samples are asked about the
    companion, as cross-validation would. Those decoded from lossy codes lie nearer to their means and like it loose
    (Caltech-101: 0.001 instead of 0.03); beside the closed form, which has learnt them, they choose as new ones would,
    and cannot say more.

    Args:
        task: what the update learns from.
        space: of the closed form.
        alone: (N, K) logits of the closed form: as if unseen for exact samples, those that it gives for others.
    """
    xp, held = namespace(task.features), task.held
    if not bool(held.any()) or bool(held.all()):
        return None
    problem = _problem(task, space, xp.zeros((len(held), len(space.means)), dtype=xp.float32))
    offsets, inputs = problem.offsets[held], problem.inputs[held]
    labels, weights = task.labels[held], _stand_in(task, held)
    train = _objective(task, problem, ~held)
    shift = best = xp.zeros((len(space.means), inputs.shape[1]), dtype=xp.float32)
    pull, least = PULLS[0], float("inf")
    for tried in PULLS:
        shift = minimise(replace(train, pull=tried * float(train.sample_weights.sum())), shift, max_steps=FIRST_STEPS)
        logits = offsets + inputs @ shift.T
        asked = logits if task.is_exact else weigh(SHARES[0], alone[held], logits)
        loss = float((weights * cross_entropy(asked, labels)).sum())
        if loss >= least:
            break
        best, pull, least = shift, tried, loss
    logits = offsets + inputs @ best.T
    losses = {
        share: float((weights * cross_entropy(weigh(share, alone[held], logits), labels)).sum())
        for share in (SHARES if task.is_exact else SHARES[:1])
    }
    share = min(losses, key=lambda share: losses[share])
    if losses[share] >= float((weights * cross_entropy(task.within(alone)[held], labels)).sum()):
        return None
    objective = _objective(task, problem, held | ~held)
    shift = minimise(replace(objective, pull=pull * float(objective.sample_weights.sum())), best)
    return Accompanied(_rows_of(space, problem, shift), _rows_of(space, problem, best), pull, share)


def train_rows(task: Task, space: Whitened) -> Accompanied:
    """Return the companion with the rows of the batch's classes trained, the others as they were.

    The samples at hand stand for all of their class. What was learnt from those that are not at hand is held by EWC:
    a row of an old class has the precision of its prior and of its Fisher over all samples before.
    """
    xp, counts, rows = namespace(task.features), task.statistics.counts, task.companion.rows
    problem = _problem(task, space, with_one(task.coded) @ rows.T)
    moving = xp.zeros((len(counts), 1), dtype=xp.float32)
    moving[task.labels[task.n_stored :]] = 1
    likely = task.device.kernels.softmax(problem.offsets)
    fisher = (problem.weights[:, None] * likely * (1 - likely)).sum(0)[:, None]
    is_old = xp.asarray(xp.arange(len(counts)) < task.n_old, dtype=xp.float32)[:, None]
    pull = task.companion.pull * float(counts.sum()) + is_old * fisher
    shift = xp.zeros((len(counts), problem.inputs.shape[1]), dtype=xp.float32)
    if bool((~task.held).any()):
        shift = minimise(replace(_objective(task, problem, ~task.held), pull=pull, moving=moving), shift)
    unseen = rows + _rows_of(space, problem, shift)
    everything = replace(_objective(task, problem, task.held | ~task.held), pull=pull, moving=moving)
    shift = minimise(everything, shift)
    before = task.companion
    return Accompanied(rows + _rows_of(space, problem, shift), unseen, before.pull, before.share)


def _problem(task: Task, space: Whitened, offsets: Floats) -> _Problem:
    """Return the samples about the centre, with variances of about 1, and within their span where they are few."""
    inputs = with_one((task.coded - space.centre) / space.units)
    basis = None
    if len(inputs) < inputs.shape[1]:  # the minimum lies in the span
        gram = inputs @ inputs.T
        diagonal = gram.reshape(-1)[:: len(gram) + 1]
        diagonal += 1e-4 * diagonal.mean()
        basis = inverse_cholesky(gram) @ inputs
        inputs = inputs @ basis.T
    return _Problem(inputs, basis, task.within(offsets), _stand_in(task, task.held | ~task.held))


def _objective(task: Task, problem: _Problem, asked: Bools) -> Objective:
    """Return the loss of some of the samples (N,), without what pulls."""
    weights = _stand_in(task, asked)
    return Objective(problem.inputs[asked], problem.offsets[asked], task.labels[asked], weights, 0.0, task.device)


def _stand_in(task: Task, asked: Bools) -> Floats:
    """Return for each of some samples (N,) how many of its class, of those seen, it stands for."""
    xp, labels, counts = namespace(task.features), task.labels[asked], task.statistics.counts
    found = xp.bincount(labels, minlength=len(counts))
    weights: Floats = xp.asarray(counts[labels] / found[labels], dtype=xp.float32)
    return weights


def _rows_of(space: Whitened, problem: _Problem, shift: Floats) -> Floats:
    """Return rows (K, D + 1) in feature space of a shift (K, R)."""
    xp = namespace(shift)
    shift = shift if problem.basis is None else shift @ problem.basis
    weights = shift[:, :-1] / space.units
    level = xp.asarray(weights, dtype=xp.float64) @ xp.asarray(space.centre, dtype=xp.float64)
    bias = xp.asarray(shift[:, -1] - level, dtype=xp.float32)
    rows: Floats = xp.concatenate([weights, bias[:, None]], axis=1)
    return rows
