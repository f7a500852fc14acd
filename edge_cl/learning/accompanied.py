"""How the companion of a closed-form head is trained: on all that is stored, or its rows of the batch's classes.

All samples are as the store gives them back, those of the batch too: of exact samples beside decoded ones it would
learn that they are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_kernels.arrays import Bools, Floats, Ints

from edge_cl.anchor import Whitened
from edge_cl.cholesky import inverse_cholesky
from edge_cl.companion import weigh
from edge_cl.devices import namespace
from edge_cl.ewc import with_one
from edge_cl.learning.task import Task
from edge_cl.refine import Objective, brier_score, minimise

SHARES = (2 / 3, 1 / 3, 0.0)  # of the closed form: half of the answer, a part of it, or none
PULLS = tuple(0.1 / 10 ** (n / 2) for n in range(10))  # weight decay for each sample, tried from the firmest on
MARGIN = 1.0  # standard errors that the held-out slice has to gain
PATIENCE = 2  # decays without a gain before the rest are not tried
N_EVALUATIONS = 24  # of a loss, about, until few rows are trained
NEVER = -1e30  # a logit that float32 has digits for
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


def train_whole(task: Task, space: Whitened, alone: Floats, pulls: tuple[float, ...] = PULLS) -> Accompanied | None:
    """Return the companion of all samples; None where the held-out slice likes the closed form better alone.

    Weight decay and share are chosen on the held-out slice, which then joins the rest, by the Brier score: the
    cross-entropy of a few samples that are surely wrong would have the companion too firm where it is right more often
    but too sure, which the closed form beside it mends. On 120 generated sets of features, with what `far_units` knows
    of few samples, all that they lie below a joint head falls from 72 to 24 points; the mean of 118 others is the same.

    Samples decoded from lossy codes lie nearer to their means than new ones do, so that they cannot say what share is
    best: half of the answer is the closed form's.

    Args:
        task: what the update learns from.
        space: of the closed form.
        alone: (N, K) logits of the closed form: as if unseen for exact samples, those that it gives for others.
        pulls: weight decays to choose from, the firmest first.
    """
    xp, held = namespace(task.features), task.held
    if not bool(held.any()) or bool(held.all()):
        return None
    problem = _problem(task, space, xp.zeros((len(held), len(space.means)), dtype=xp.float32), len(held))
    inputs, offsets, beside = problem.inputs[held], problem.offsets[held], alone[held]
    labels, weights = task.labels[held], task.stand_in(held)
    shares = SHARES if task.is_exact else SHARES[:1]

    def ask(logits: Floats) -> Floats:
        asked: Floats = weights * brier_score(logits, labels)
        return asked

    train = _objective(task, problem, ~held, task.labels)
    shift = best = xp.zeros((len(space.means), inputs.shape[1]), dtype=xp.float32)
    without = ask(task.within(alone)[held])
    least, found, last_gain = without + float("inf"), (0.0, 0.0), 0
    for n, pull in enumerate(pulls):
        shift = minimise(replace(train, pull=pull * float(train.sample_weights.sum())), shift, max_steps=FIRST_STEPS)
        logits = offsets + inputs @ shift.T
        losses = {share: ask(weigh(share, beside, logits)) for share in shares}
        share = min(losses, key=lambda share: float(losses[share].sum()))
        if float(losses[share].sum()) < float(least.sum()):
            least, best, found, last_gain = losses[share], shift, (pull, share), n
        if n - last_gain == PATIENCE:
            break
    gains = without - least
    if float(gains.sum()) <= MARGIN * float((gains**2).sum()) ** 0.5:
        return None
    objective = _objective(task, problem, held | ~held, task.labels)
    shift = minimise(replace(objective, pull=found[0] * float(objective.sample_weights.sum())), best)
    return Accompanied(_rows_of(space, problem, shift), _rows_of(space, problem, best), *found)


def train_rows(task: Task, space: Whitened) -> Accompanied:
    """Return the companion with the rows of the batch's classes trained, the others as they were.

    The samples at hand stand for all of their class. What was learnt from those that are not at hand is held by EWC:
    a row of an old class has the precision of its prior and of its Fisher over all samples before.
    """
    xp, counts, before = namespace(task.features), task.statistics.counts, task.companion
    is_new = xp.arange(len(task.labels)) >= task.n_stored
    moving = xp.arange(len(counts))[xp.bincount(task.labels[is_new], minlength=len(counts)) > 0]
    problem = _problem(task, space, with_one(task.coded) @ before.rows.T, N_EVALUATIONS * len(moving))
    likely = task.device.kernels.softmax(problem.offsets)[:, moving]
    fisher = (problem.weights[:, None] * likely * (1 - likely)).sum(0)
    pull = before.pull * float(counts.sum()) + xp.where(moving < task.n_old, fisher, 0 * fisher)
    problem, labels = _narrow(problem, task.labels, moving)
    pull = xp.concatenate([pull, pull[:1]])[:, None]  # the last row is the others', and has to stay
    stays = xp.arange(len(pull))[:, None] == len(moving)
    shift = xp.zeros((len(pull), problem.inputs.shape[1]), dtype=xp.float32)
    shifts = []
    for asked in (~task.held, task.held | ~task.held):
        objective = replace(_objective(task, problem, asked, labels), pull=pull, moving=~stays)
        shift = minimise(objective, shift) if bool(asked.any()) else shift
        shifts.append(before.rows + 0)
        shifts[-1][moving] += _rows_of(space, problem, shift[:-1])
    unseen, rows = shifts
    return Accompanied(rows, unseen, before.pull, before.share)


def _narrow(problem: _Problem, labels: Ints, moving: Ints) -> tuple[_Problem, Ints]:
    """Return the problem with one class in place of all that do not move, and the labels (N,) there.

    The loss differs by what does not depend on the moving rows, and its evaluation no longer costs K.
    """
    xp = namespace(labels)
    places = xp.full((problem.offsets.shape[1],), len(moving))
    places[moving] = xp.arange(len(moving))
    others = problem.offsets[:, places == len(moving)]
    rest = xp.full((len(labels), 1), NEVER, dtype=xp.float32)
    if others.shape[1]:
        peak = xp.amax(others, 1)[:, None].clip(NEVER)
        rest = peak + xp.log(xp.exp(others - peak).sum(1)[:, None].clip(1e-30))
    return replace(problem, offsets=xp.concatenate([problem.offsets[:, moving], rest], axis=1)), places[labels]


def _problem(task: Task, space: Whitened, offsets: Floats, n_rows: int) -> _Problem:
    """Return the samples about the centre, with variances of about 1, and within their span where they are few.

    Args:
        task: what the update learns from.
        space: of the closed form.
        offsets: (N, K) logits before training.
        n_rows: of the head, times how often a loss is asked for: what finding the span has to pay for.
    """
    inputs = with_one((task.coded - space.centre) / space.units)
    basis = None
    if len(inputs) < min(inputs.shape[1], n_rows):  # the minimum lies in the span
        gram = inputs @ inputs.T
        diagonal = gram.reshape(-1)[:: len(gram) + 1]
        diagonal += 1e-4 * diagonal.mean()
        basis = inverse_cholesky(gram) @ inputs
        inputs = inputs @ basis.T
    return _Problem(inputs, basis, task.within(offsets), task.stand_in(task.held | ~task.held))


def _objective(task: Task, problem: _Problem, asked: Bools, labels: Ints) -> Objective:
    """Return the loss of some of the samples (N,), which have labels (N,) there, without what pulls."""
    weights = task.stand_in(asked)
    return Objective(problem.inputs[asked], problem.offsets[asked], labels[asked], weights, 0.0, task.device)


def _rows_of(space: Whitened, problem: _Problem, shift: Floats) -> Floats:
    """Return rows (K, D + 1) in feature space of a shift (K, R)."""
    xp = namespace(shift)
    shift = shift if problem.basis is None else shift @ problem.basis
    weights = shift[:, :-1] / space.units
    level = xp.asarray(weights, dtype=xp.float64) @ xp.asarray(space.centre, dtype=xp.float64)
    bias = xp.asarray(shift[:, -1] - level, dtype=xp.float32)
    rows: Floats = xp.concatenate([weights, bias[:, None]], axis=1)
    return rows
