"""Everything that decides what one training run computes, in one frozen record."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from core.archs import SMALLEST_SIZE
from core.errors import InputError, few, shorten

Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["cosine", "step", "plateau"]
Loss = Literal["weighted", "cross_entropy", "logit_adjusted", "focal"]
Sampler = Literal["shuffled", "balanced"]

# Three levels and no more: the views of an image are shared between trials of equal strength (docs/decisions/0005).
AUGMENT_STRENGTHS = (0.5, 1.0, 1.5)
_LARGEST = 1e300  # whole numbers may be larger than any float, and NaN is below nothing


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run: same config, data, machine type and threads, same numbers (docs/decisions/0006).

    Attributes:
        arch: Name of a timm model.
        image_size: Side of the square that the model sees, pixels.
        epochs: Passes over the training part, at most; early stopping may end sooner.
        batch_size: Images a step.
        lr: Peak learning rate, per step, of the head and of every block that learns.
        weight_decay: Decoupled decay per step and unit of `lr` for AdamW, added to the gradient for Adam and SGD;
            never on biases and norms.
        l1: Pull of every weight towards zero, biases and norms aside, per step and unit of `lr` (`core/sparsity.py`):
            those that the loss doesn't hold against it become zero.
        drop_rate: Probability of dropping a feature before the head.
        drop_path: Stochastic depth (Huang et al. 2016), timm's `drop_path_rate`: about the probability of leaving out
            the last residual branch, and less for each one before it. What is frozen leaves out none.
        unfreeze_depth: Blocks, counted from the head, that learn; 0 is the head alone.
        label_smoothing: Share of each label spread evenly over all classes (Szegedy et al. 2016, section 7).
        rebalance: Strength at which rare classes are brought forward, by the loss or by the sampler and never by both;
            0 none, 1 as if all classes were equally frequent.
        loss: ``weighted``: cross entropy with class weights ∝ count^-rebalance; ``cross_entropy``: without weights;
            ``logit_adjusted``: `rebalance` times the log of the class frequencies is added to the logits in training
            (Menon et al. 2021, equation 10); ``focal``: images that are hard count more (Lin et al. 2017).
        focal_gamma: How much more, Lin et al.'s γ; above 0 for ``focal``, whose only strength it is, and only there.
        sampler: Order of an epoch: ``shuffled`` shows each image once, ``balanced`` as many images in all, each on
            average ∝ count^-rebalance times.
        ema: Horizon, in epochs, of an exponential moving average of the weights, which is what is validated and kept; 0
            takes the weights themselves.
        average_last: Last epochs whose weights, step by step, are averaged instead; 0 averages none.
        layer_decay: Learning rate of each block over that of the next one towards the head, whose rate is `lr`; 1 is
            one rate for all.
        mixup: Parameter of the Beta distribution from which the shares are drawn in which pairs of images are blended,
            as the learning part is fed with them (`core/mixing.py`); 0 blends none.
        cutmix: The same for the share of a box that each image has of another (Yun et al. 2019); 0 pastes none. Only
            where everything learns, and not beside `mixup`.
        unlabelled_weight: Of the loss of unlabelled images (`core/pseudo_labels.py`), beside that of the labelled ones;
            0 learns from labelled images alone.
        unlabelled_ratio: Unlabelled images a step over labelled ones, Sohn et al.'s μ.
        confidence: Belief from which on an unlabelled image's class is taken for its label, Sohn et al.'s τ.
        augment_strength: Scale of every augmentation's range; 0 shows each image as it is.
        optimizer: Update rule.
        schedule: Decay of the learning rate after the warm-up.
        warmup_epochs: Epochs over which the learning rate rises from 0; may be a fraction.
        patience: Epochs without a better validation recall after which the run ends; 0 never stops early.
        seed: Seed of the head's first weights, of dropout and of the order of images.
        trial: Number that sets the order of images apart from that of other runs with the same seed.
        augment_seed: Seed of the views; shared by all trials of a study.
        views: Views of an image: epoch e shows view e mod `views`; 0 means as many as epochs.
    """

    arch: str
    image_size: int
    lr: float
    epochs: int = 10
    batch_size: int = 64
    weight_decay: float = 0.01
    l1: float = 0.0
    drop_rate: float = 0.2
    drop_path: float = 0.0
    unfreeze_depth: int = 0
    label_smoothing: float = 0.0
    rebalance: float = 0.0
    loss: Loss = "weighted"
    focal_gamma: float = 0.0
    sampler: Sampler = "shuffled"
    ema: float = 0.0
    average_last: int = 0
    layer_decay: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    unlabelled_weight: float = 0.0
    unlabelled_ratio: int = 1
    confidence: float = 0.8
    augment_strength: float = 1.0
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.5
    patience: int = 0
    seed: int = 0
    trial: int = 0
    augment_seed: int = 0
    views: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), field.type)
        _require(self.image_size >= SMALLEST_SIZE, f"at least {SMALLEST_SIZE} pixels", "image_size", self.image_size)
        for name in ("epochs", "batch_size", "unlabelled_ratio"):
            _require(getattr(self, name) >= 1, "at least 1", name, getattr(self, name))
        for name in (
            "unfreeze_depth",
            "patience",
            "seed",
            "trial",
            "augment_seed",
            "views",
            "focal_gamma",
            "ema",
            "average_last",
            "mixup",
            "cutmix",
            "unlabelled_weight",
            "warmup_epochs",
            "weight_decay",
        ):
            _require(getattr(self, name) >= 0, "0 or more", name, getattr(self, name))
        _require(self.lr > 0, "above 0", "lr", self.lr)
        for name in ("drop_rate", "drop_path", "label_smoothing"):
            _require(0 <= getattr(self, name) < 1, "in [0, 1)", name, getattr(self, name))
        _require(0 <= self.rebalance <= 1, "in [0, 1]", "rebalance", self.rebalance)
        _require(0 < self.layer_decay <= 1, "in (0, 1]", "layer_decay", self.layer_decay)
        # A step of Adam is about as long as its rate: no gradient could hold a weight against a greater pull.
        _require(0 <= self.l1 <= 1, "in [0, 1]", "l1", self.l1)
        # Zhang et al. went up to 1; far above, each image is half its own and half another's.
        for name in ("mixup", "cutmix"):
            _require(getattr(self, name) <= 10, "at most 10", name, getattr(self, name))
        _require(not (self.mixup and self.cutmix), f"0 with mixup={self.mixup}", "cutmix", self.cutmix)
        # Lin et al. went up to 5; far above, (1 - p)^gamma is 0 for whatever a computer can tell from a sure image.
        _require(self.focal_gamma <= 10, "at most 10", "focal_gamma", self.focal_gamma)
        _require(0 <= self.augment_strength <= 2, "in [0, 2]", "augment_strength", self.augment_strength)
        _require(self.views <= self.epochs, "at most `epochs`", "views", self.views)
        _require(self.average_last <= self.epochs, "at most `epochs`", "average_last", self.average_last)
        _require(not (self.ema and self.average_last), f"0 with ema={self.ema}", "average_last", self.average_last)
        _require(self.warmup_epochs < self.epochs, "below `epochs`", "warmup_epochs", self.warmup_epochs)
        for name, kind in (("optimizer", Optimizer), ("schedule", Schedule), ("loss", Loss), ("sampler", Sampler)):
            choices = get_args(kind)
            _require(getattr(self, name) in choices, f"one of {', '.join(choices)}", name, getattr(self, name))
        self._require_one_rebalancing()
        self._require_labels_like_others()

    def _require_one_rebalancing(self) -> None:
        """Rare classes are brought forward by one mechanism: two would do it twice, at a strength that none has."""
        if self.loss == "focal":
            _require(self.focal_gamma > 0, "above 0 with loss=focal", "focal_gamma", self.focal_gamma)
            _require(self.rebalance == 0, "0 with loss=focal, which has its focal_gamma", "rebalance", self.rebalance)
            _require(self.sampler == "shuffled", "shuffled with loss=focal", "sampler", self.sampler)
            return
        _require(self.focal_gamma == 0, f"0 with loss={self.loss}", "focal_gamma", self.focal_gamma)
        if self.rebalance > 0:
            rule = f"cross_entropy with sampler=balanced, and only then, at rebalance={self.rebalance}"
            _require((self.loss == "cross_entropy") == (self.sampler == "balanced"), rule, "loss", self.loss)

    def _require_labels_like_others(self) -> None:
        """Pseudo-labels are brought forward as labels are, and made of whole images by a whole network."""
        _require(0 < self.confidence < 1, "in (0, 1)", "confidence", self.confidence)
        if self.unlabelled_weight > 0:
            with_it = f"with unlabelled_weight={self.unlabelled_weight}"
            _require(self.loss != "focal", f"another {with_it}", "loss", self.loss)
            _require(self.sampler == "shuffled", f"shuffled {with_it}", "sampler", self.sampler)
            for name in ("mixup", "cutmix", "drop_path"):
                _require(getattr(self, name) == 0, f"0 {with_it}", name, getattr(self, name))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`.

        Raises:
            InputError: A key is unknown, a required one is missing, or a value breaks its rule.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(known)):
            raise InputError(
                f"A config must have known keys only, but got {few(unknown)}. The known ones: {', '.join(known)}."
            )
        required = [name for name, field in known.items() if field.default is dataclasses.MISSING]
        if missing := [name for name in required if name not in values]:
            raise InputError(f"A config must have {', '.join(missing)}, but got {few(values)}. Add what is missing.")
        return cls(**values)


def _check_type(name: str, value: object, annotation: Any) -> None:
    """Refuses what JSON or a caller mixed up: 3.0 or True for a count, NaN or text for a number."""
    if annotation is int:
        _require(isinstance(value, int) and not isinstance(value, bool), "a whole number", name, value)
    elif annotation is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
        _require(is_number, "a finite number", name, value)
    else:
        _require(isinstance(value, str), "text", name, value)


def _require(holds: bool, rule: str, name: str, value: object) -> None:
    if not holds:
        got = f"{name}={shorten(repr(value))}"
        raise InputError(f"`{name}` must be {rule}, but got {got}. Change it in the config or on the command line.")
