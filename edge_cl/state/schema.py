"""What stands in a state file.

An SQLite database in WAL mode, `application_id` 0x45434C31 ("ECL1"), `user_version` the format's: 2, or 3 where
the state has what programs of format 2 do not know. Numbers in blobs are little-endian, rows one after another; digests
are BLAKE2b of 16 bytes.

| table    | column  | type    | meaning |
|----------|---------|---------|---------|
| settings | key     | text    | `backbone`, `recipe`, `replay_bytes`, `seed`, `device`, `precision`, `codec`, |
|          |         |         | `selection`, `history_bytes`; `erasing`: there while what was forgotten may |
|          |         |         | be in free pages; `seal`: digest of settings, kept versions, log and births; |
|          |         |         | from format 3 on, where they are not the defaults: `head`, `hidden_units`, |
|          |         |         | `random_features`, `input_dim`, `has_tasks`, `is_raised`, `balance`, |
|          |         |         | `shrinkage`, `penalty`, `random_constant` |
|          | value   | text    | of `backbone`: JSON, or empty where samples are features |
| chunks   | id      | integer | from 1; a chunk never changes |
|          | data    | blob    | a piece of a part |
| kept     | version | integer | that can be restored; the last one is the current one |
|          | header  | text    | JSON: `dim` D, `bytes` of each part; an empty part that is new in 3 is left out |
|          | ids     | blob    | i8 of the chunks of all parts, in the order of `edge_cl.state.parts`; none twice |
|          | sums    | blob    | digests of these chunks |
|          | digest  | blob    | digest of `header`, then `sums`: of the content, wherever its chunks are |
| log      | slot    | integer | version modulo the number of slots: the oldest lines are overwritten |
|          | line    | blob    | zeros, or see `edge_cl.state.versions` |
| births   | version | integer | of the log |
|          | name    | text    | class that was new in it; in the order of appearance |

A version's parts share the chunks that they have in common with the version before. Nothing else is in the file: with a
table, view or trigger more it is refused. A file is of the least format that can hold it, and becomes one of format 3
with the first change that needs it: a recipe, a head or a part of later programs, or classes of tasks. Format 1 (tables
settings, classes, arrays, replay, versions; no digests) is upgraded by `edge_cl.state.upgrade`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from edge_cl.codecs import DEFAULT_CODEC, check_codec
from edge_cl.errors import InputError
from edge_cl.feature_map import FeatureMap
from edge_cl.head import HIDDEN_UNITS
from edge_cl.recipes import Recipe, get_recipe
from edge_cl.replay import SELECTIONS
from edge_cl.state.form import check_form

APPLICATION_ID = 0x45434C31
OLDEST, FORMAT = 2, 3  # that have these tables
OLDEST_RECIPES = frozenset({"edge", "slda", "replay", "finetune"})  # that programs of format 2 have as they are now
RENAMED = {"ewc": "ewc-diagonal"}  # recipes since format 2

TABLES = {
    "settings": "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "chunks": "CREATE TABLE chunks (id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "kept": "CREATE TABLE kept (version INTEGER PRIMARY KEY, header TEXT NOT NULL, ids BLOB NOT NULL, "
    "sums BLOB NOT NULL, digest BLOB NOT NULL)",
    "log": "CREATE TABLE log (slot INTEGER PRIMARY KEY, line BLOB NOT NULL)",
    "births": "CREATE TABLE births (version INTEGER NOT NULL, name TEXT NOT NULL)",
}

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = (32, 16)
HISTORY_BYTES = 32_000_000
NUMBERS = ("replay_bytes", "seed", "precision", "history_bytes", "hidden_units", "random_features", "input_dim")
STRENGTHS = ("shrinkage", "penalty")
REALS = (*STRENGTHS, "random_constant")
NEWER = (  # than format 2
    *("head", "hidden_units", "random_features", "input_dim", "has_tasks", "is_raised", "balance"),
    *REALS,
)


@dataclass(frozen=True)
class Settings:
    """What `create` fixed, and `set` may change.

    Attributes:
        backbone: its description as JSON, or empty where samples are features.
        recipe: its name.
        replay_bytes: limit of the replay.
        seed: of every draw.
        device: `auto`, `cpu` or `cuda`.
        precision: of the backbone on the GPU, 32 or 16 bits.
        codec: of the replay.
        selection: of the replay, `reservoir` or `herding`.
        history_bytes: limit of what is kept of earlier versions.
        head: `linear`, `cosine`, `mlp` or `regression`.
        hidden_units: of an `mlp` head, for its first classes.
        random_features: D of the random features that samples become, or 0: none.
        input_dim: features of a sample before they become random ones; 0 until the first is learnt, or without those.
        has_tasks: whether the names of classes begin with that of their task.
        is_raised: whether features are raised to a power; the first ones decide.
        balance: of the classes in training, instead of the recipe's own; empty: its own.
        shrinkage: of the covariance; None: chosen by itself.
        penalty: on weights, see `edge_cl.recipes`; None: chosen by itself, or 1.
        random_constant: the feature beside a sample's own before they become random ones; 0 until the first is learnt.
    """

    backbone: str
    recipe: str
    replay_bytes: int
    seed: int
    device: str
    precision: int = 32
    codec: str = DEFAULT_CODEC
    selection: str = "reservoir"
    history_bytes: int = HISTORY_BYTES
    head: str = "linear"
    hidden_units: int = HIDDEN_UNITS
    random_features: int = 0
    input_dim: int = 0
    has_tasks: bool = False
    is_raised: bool = False
    balance: str = ""
    shrinkage: float | None = None
    penalty: float | None = None
    random_constant: float = 0.0

    @property
    def format(self) -> int:
        """The least format that can hold these."""
        is_old = self.recipe in OLDEST_RECIPES and all(getattr(self, key) == default for key, default in _defaults())
        return OLDEST if is_old else FORMAT

    def make_recipe(self) -> Recipe:
        """Return the recipe, with what these say otherwise.

        Raises:
            InputError: there is none, or it has no such setting.
        """
        return get_recipe(self.recipe, self.balance, shrinkage=self.shrinkage, penalty=self.penalty)

    def feature_map(self, n_inputs: int) -> FeatureMap:
        """Return what becomes of samples of that many features before anything learns from them."""
        kind = (self.head == "cosine", self.is_raised, self.seed, self.random_constant)
        return FeatureMap(n_inputs, self.random_features, *kind)

    def checked(self) -> Settings:
        """Return the settings.

        Raises:
            InputError: one is out of its range.
        """
        check_device(self.device)
        check_codec(self.codec)
        if self.selection not in SELECTIONS:
            raise InputError(f"selection: expected one of {', '.join(SELECTIONS)}; found {self.selection!r}")
        if self.precision not in PRECISIONS or isinstance(self.precision, bool):
            raise InputError(f"precision: expected 32 or 16 bits; found {self.precision!r}")
        if self.precision == 16 and self.device == "cpu":
            raise InputError("precision: 16 bits need device cuda, or auto where there may be one; found device cpu")
        for name in ("replay_bytes", "seed", "history_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
                raise InputError(f"{name}: expected a whole number of at least 0; found {value!r}")
        check_form(self)
        return self

    def to_rows(self) -> list[tuple[str, str]]:
        """Return the rows of the table; a default that programs of format 2 do not know is left out."""
        defaults = dict(_defaults())
        return [(key, str(value)) for key, value in asdict(self).items() if defaults.get(key) != value]

    @classmethod
    def from_rows(cls, rows: list[tuple[str, str]], number: int = FORMAT) -> Settings:
        """Return what `to_rows` wrote.

        Args:
            rows: of the table.
            number: of the format.

        Raises:
            ValueError: it cannot be read.
        """
        values: dict[str, Any] = {key: value for key, value in rows if key not in {"erasing", "seal"}}
        values |= {key: int(values[key]) for key in NUMBERS if key in values}
        values |= {key: float(values[key]) for key in REALS if key in values}
        if number < FORMAT and "recipe" in values:
            values["recipe"] = RENAMED.get(values["recipe"], values["recipe"])
        for key in {"has_tasks", "is_raised"} & set(values):
            values[key] = {"False": False, "True": True}.get(values[key])
        try:
            return cls(**values).checked()
        except TypeError as error:
            raise ValueError(str(error).replace("Settings.__init__() ", "")) from None


def _defaults() -> list[tuple[str, Any]]:
    """Return what programs of format 2 do not know, and take to be so."""
    return [(field.name, field.default) for field in fields(Settings) if field.name in NEWER]


def check_device(name: str) -> None:
    """Check the name of a device.

    Raises:
        InputError: there is no such device.
    """
    if name not in DEVICES:
        raise InputError(f"device: expected one of {', '.join(DEVICES)}; found {name!r}")
