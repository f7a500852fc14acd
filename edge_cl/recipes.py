"""The recipes: which memories of the past an update uses. A recipe is data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from edge_cl.errors import InputError

Anchor = Literal["statistics", "means", "exemplars", "ridge", "previous", "nothing"]
Balance = Literal["none", "seen", "classes", "logits"]
BALANCES: tuple[Balance, ...] = get_args(Balance)
LEAST_SHRINKAGE = 1e-6
PENALTIES = (1e-9, 1e9)  # the least and the greatest: beyond, float32 has no room for what they hold


@dataclass(frozen=True)
class Recipe:
    """What an update starts from and what holds it.

    Attributes:
        name: what the user types.
        anchor: the head that an update starts from: a closed form over the `statistics`, the nearest of the class
            `means` or of the means of `exemplars`, `ridge` regression on the classes, the head of the version before
            (`previous`), or `nothing`: each update trains on all samples from zero.
        trains: whether softmax cross-entropy moves the head away from the anchor.
        fisher: the metric of EWC's pull to the anchor: the Kronecker one (its feature factor is the second moment that
            the statistics hold, so it is a plain square in whitened space), the exact diagonal one, a multiple of the
            identity (L2), or none.
        decay: what remains of the diagonal Fisher at each update.
        has_separate_anchors: whether the diagonal pulls to the heads after each update, and not only to the last one.
        replays: whether stored samples of the past are trained on beside the new ones.
        distils: whether the head before teaches the new one its logits of the old classes, on all samples trained on.
        projects: which gradients of stored samples a step must not go against: none, of each old class (GEM), or
            their `average` (A-GEM).
        balance: what a sample counts when it is trained on: 1 (`none`); as many as its class has seen for each that
            is trained on (`seen`); as much as makes all classes count the same (`classes`, which is class-balanced
            sampling in expectation: the optimiser sees all samples at once and draws none); or 1, with the classes'
            shares as a prior that only training sees (`logits`).
        corrects: how new rows that came out too loud are brought down: not at all, to the length of the old rows
            (`lengths`), or by factor and offset that the held-out samples like best (`held`).
        selection: which samples stay, if the user does not say: `reservoir` or `herding`.
        keeps_all: whether each sample has to be stored, exactly.
        parts: whether a class may have several means, where it is seen in several looks.
        raises: whether features that are never negative are raised to a power (`edge_cl.feature_map`).
        shrinkage: of the covariance, if the least that is allowed is not more; None: it is chosen by itself.
        penalty: on weights. Where the recipe chooses a weight decay by itself (`edge`: that of its companion; `ridge`,
            `joint`) that decay, for each sample and in units of a feature's variance. Elsewhere lambda, a factor on
            what EWC's Fisher or L2 holds (Kirkpatrick 2017, eq. 3). None: the decay is chosen by itself, lambda is 1.
    """

    name: str
    anchor: Anchor
    trains: bool = True
    fisher: Literal["kronecker", "diagonal", "identity", "none"] = "none"
    decay: float = 1.0
    has_separate_anchors: bool = False
    replays: bool = False
    distils: bool = False
    projects: Literal["none", "classes", "average"] = "none"
    balance: Balance = "none"
    corrects: Literal["none", "lengths", "held"] = "none"
    selection: Literal["reservoir", "herding"] = "reservoir"
    keeps_all: bool = False
    parts: bool = False
    raises: bool = False
    shrinkage: float | None = None
    penalty: float | None = None

    @property
    def has_scatter(self) -> bool:
        """Whether the second moment of the features is kept."""
        return self.anchor in {"statistics", "ridge"} or self.fisher == "kronecker"

    @property
    def n_fishers(self) -> int:
        """How many arrays (K, D + 1) the diagonal Fisher takes: itself, and itself times the anchors."""
        return (1 + self.has_separate_anchors) if self.fisher == "diagonal" else 0

    @property
    def is_recomputed(self) -> bool:
        """Whether the head follows from what is remembered, whatever it was before."""
        return self.anchor != "previous"

    @property
    def shrinks(self) -> bool:
        """Whether there is a covariance that is shrunk."""
        return self.anchor == "statistics" or self.fisher == "kronecker"

    @property
    def decays_weights(self) -> bool:
        """Whether the penalty is a weight decay that is chosen by itself."""
        return self.anchor in {"ridge", "nothing"} or (self.anchor == "statistics" and self.trains)

    @property
    def is_penalised(self) -> bool:
        """Whether there is a penalty on the weights whose strength can be told."""
        return self.decays_weights or self.fisher != "none"


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("edge", "statistics", fisher="kronecker", replays=True, parts=True, raises=True),
        Recipe("slda", "statistics", trains=False),
        Recipe("ridge", "ridge", trains=False),
        Recipe("ncm", "means", trains=False),
        Recipe("icarl", "exemplars", trains=False, distils=True, replays=True, selection="herding"),
        Recipe("ewc", "previous", fisher="kronecker"),
        Recipe("ewc+replay", "previous", fisher="kronecker", replays=True),
        Recipe("ewc-diagonal", "previous", fisher="diagonal", has_separate_anchors=True),
        Recipe("online-ewc", "previous", fisher="diagonal", decay=0.9),
        Recipe("l2", "previous", fisher="identity"),
        Recipe("lwf", "previous", distils=True),
        Recipe("gem", "previous", projects="classes"),
        Recipe("a-gem", "previous", projects="average"),
        Recipe("replay", "previous", replays=True),
        Recipe("wa", "previous", replays=True, distils=True, corrects="lengths"),
        Recipe("bic", "previous", replays=True, distils=True, corrects="held"),
        Recipe("finetune", "previous"),
        Recipe("joint", "nothing", keeps_all=True),
    )
}


def get_recipe(name: str, balance: str = "", *, shrinkage: float | None = None, penalty: float | None = None) -> Recipe:
    """Return the recipe of that name.

    Args:
        name: a key of `RECIPES`.
        balance: one of `BALANCES` instead of the recipe's own; empty: its own.
        shrinkage: of the covariance; None: chosen by itself.
        penalty: on weights; None: chosen by itself, or 1.

    Raises:
        InputError: there is none, its classes cannot be balanced, or it has no such strength.
    """
    if name not in RECIPES:
        raise InputError(f"recipe: expected one of {', '.join(RECIPES)}; found {name!r}")
    recipe = RECIPES[name]
    if shrinkage is not None:
        _check_strength("shrinkage", shrinkage, (LEAST_SHRINKAGE, 1.0))
        _check_has("shrinkage", name, [known for known, other in RECIPES.items() if other.shrinks])
    if penalty is not None:
        _check_strength("penalty", penalty, PENALTIES)
        _check_has("penalty", name, [known for known, other in RECIPES.items() if other.is_penalised])
    return _balance(replace(recipe, shrinkage=shrinkage, penalty=penalty), balance)


def _check_strength(what: str, value: float, limits: tuple[float, float]) -> None:
    least, most = limits
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InputError(f"{what}: expected a number from {least:g} to {most:g}; found {value!r}")


def _check_has(what: str, name: str, having: list[str]) -> None:
    if name not in having:
        raise InputError(f"{what}: expected a recipe that has one, of {', '.join(having)}; found {name!r}")


def _balance(recipe: Recipe, balance: str) -> Recipe:
    """Return the recipe with its classes balanced so.

    Raises:
        InputError: they cannot be.
    """
    if not balance:
        return recipe
    if recipe.anchor != "previous":
        trained = ", ".join(known for known, other in RECIPES.items() if other.anchor == "previous")
        raise InputError(f"balance: expected a recipe that weighs samples, of {trained}; found {recipe.name!r}")
    for known in BALANCES:
        if known == balance:
            return replace(recipe, balance=known)
    raise InputError(f"balance: expected one of {', '.join(BALANCES)}; found {balance!r}")
