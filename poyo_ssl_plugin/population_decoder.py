"""A decoder of population activity in scikit-learn's way, for arrays, pipelines and cross-validation."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import ClassifierTags, RegressorTags, Tags, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from poyo_ssl_plugin.data import Recordings, Task, trial_windows
from poyo_ssl_plugin.errors import DeviceError, RecipeError
from poyo_ssl_plugin.models import CalciumPOYO, load_weights, replace_vocabulary, run_without_dropout
from poyo_ssl_plugin.models.readout import PrototypeReadout
from poyo_ssl_plugin.objectives import identify_units
from poyo_ssl_plugin.plain import ReadOnlyValues, Values

# What is decoded, and into what: arrays; or recordings, themselves or by their folder, and a task.
_Windows: TypeAlias = ArrayLike | Recordings | str | Path
_Labels: TypeAlias = ArrayLike | str | ReadOnlyValues | Task

_TASK = "decoded"
# Windows a model is asked about at a time.
_CHUNK = 1024
# Whole numbers, and the least that each may be.
_LEAST = {"n_times": 1, "dim": 1, "depth": 0, "identify_steps": 0, "max_steps": 0, "batch_size": 1}


def _tells_classes(decoder: PopulationDecoder) -> bool:
    return decoder.kind == "classification"


class PopulationDecoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A :class:`~poyo_ssl_plugin.CalciumPOYO` as a scikit-learn classifier or regressor, and transformer.

    It takes windows of activity as arrays, (R, N, T) for R windows of N neurons and T samples. Pipelines and
    scalers want two dimensions: give (R, N * T), the samples of a neuron side by side, and ``n_times``. Each neuron is
    standardized by its mean and standard deviation in training.

    ``fit`` and ``score`` also take :class:`~poyo_ssl_plugin.Recordings` of one recording and a task: ``fit`` then
    reads the windows of its training trials, and ``score`` those of its test trials.

    ``sklearn.utils.estimator_checks.check_estimator`` passes, as a classifier and as a regressor, but for the checks in
    ``EXPECTED_FAILURES``, which says why.

    Args:
        kind: ``"classification"``, or ``"regression"`` of one or several numbers.
        n_times: Samples of each neuron where X has two dimensions.
        window_length: Length of a window in seconds, of the model and of windows read from recordings.
        dim: Width of a new model.
        depth: Its layers.
        init_from: A pretrained model: a checkpoint, a folder of ``save_pretrained``, or an id on the Hugging Face Hub.
            Its architecture is taken, and the neurons are new to it.
        identify_steps: Steps of label-free identification of the neurons before any label is used
            (:func:`~poyo_ssl_plugin.objectives.identify_units`).
        max_steps: Steps of AdamW.
        batch_size: Windows per step.
        lr: Learning rate at first; it falls along a cosine.
        unit_dropout: Fraction of the neurons hidden at each step.
        device: Where to train: ``"cpu"``, ``"cuda"``, ...
        random_state: Seed, or numpy generator, of everything that is random.

    Attributes:
        model_: The fitted :class:`~poyo_ssl_plugin.CalciumPOYO`.
        classes_: Classes, of a classification.
        n_features_in_: Size of the second dimension of X.

    Example:
        >>> import numpy as np
        >>> from sklearn.model_selection import cross_val_score
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat([0, 1], 30)
        >>> X = rng.normal(size=(60, 8, 20)) + y[:, None, None] * rng.normal(size=(8, 1))
        >>> decoder = PopulationDecoder(max_steps=10, random_state=0)
        >>> bool(cross_val_score(decoder, X.reshape(60, -1), y, cv=2).mean() > 0.9)
        True
        >>> decoder.fit(X, y).transform(X).shape
        (60, 1280)
    """

    model_: CalciumPOYO
    classes_: np.ndarray

    def __init__(
        self,
        *,
        kind: Literal["classification", "regression"] = "classification",
        n_times: int = 1,
        window_length: float = 2.0,
        dim: int = 32,
        depth: int = 1,
        init_from: str | Path | None = None,
        identify_steps: int = 0,
        max_steps: int = 200,
        batch_size: int = 64,
        lr: float = 2e-3,
        unit_dropout: float = 0.2,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.kind = kind
        self.n_times = n_times
        self.window_length = window_length
        self.dim = dim
        self.depth = depth
        self.init_from = init_from
        self.identify_steps = identify_steps
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.unit_dropout = unit_dropout
        self.device = device
        self.random_state = random_state

    def fit(self, X: _Windows, y: _Labels) -> PopulationDecoder:  # noqa: N803  scikit-learn's name
        """Fit to labelled windows.

        Args:
            X: Windows, (R, N, T) or (R, N * T); or :class:`~poyo_ssl_plugin.Recordings`.
            y: Labels, (R,), or (R, D) of a regression; or a task.

        Raises:
            ValueError: If the arrays do not fit.
            PoyoSSLError: If an argument, the recordings or the pretrained model are not as they must be.
        """
        self._check_arguments()
        windows, labels = self._windows(X, y, "train")
        numeric = not _tells_classes(self)
        windows, labels = validate_data(
            self, windows, labels, dtype=np.float32, allow_nd=True, multi_output=numeric, y_numeric=numeric
        )
        values = self._cut(windows)
        self._shape = values.shape[1:]
        self._mean = values.mean(axis=(0, 2), keepdims=True, dtype=np.float64)
        std = values.std(axis=(0, 2), keepdims=True, dtype=np.float64)
        self._std = np.where(std > 0, std, 1.0)
        target = self._fit_target(labels)
        seed = int(check_random_state(self.random_state).randint(2**31))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model_ = self._make_model(target).to(self.device)
            self._train(self._patches(values), target.to(self.device))
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Classes (R,), or numbers, (R,) or (R, D), of windows."""
        answers = self._answers(X)
        if _tells_classes(self):
            return self.classes_[answers.argmax(axis=1)]
        values = answers * self._target_std + self._target_mean
        return values[:, 0] if self._one_number else values

    @available_if(_tells_classes)
    def predict_proba(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Probabilities of the classes, (R, C), in the order of ``classes_``."""
        return torch.from_numpy(self._answers(X)).double().softmax(dim=1).numpy()

    def transform(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Latents of windows after the processor, float32 (R, L * D)."""
        return np.concatenate([self._run(batch)[0] for batch in self._batches(X)])

    def score(self, X: _Windows, y: _Labels, sample_weight: ArrayLike | None = None) -> float:  # noqa: N803
        """Accuracy, or R2; of :class:`~poyo_ssl_plugin.Recordings` and a task, on its test trials."""
        windows, labels = self._windows(X, y, "test")
        measure = accuracy_score if _tells_classes(self) else r2_score
        return float(measure(labels, self.predict(windows), sample_weight=sample_weight))

    def _check_arguments(self) -> None:
        if self.kind not in ("classification", "regression"):
            raise RecipeError(f"kind must be 'classification' or 'regression', not {self.kind!r}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise RecipeError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if not 0 <= self.unit_dropout < 1:
            raise RecipeError(f"unit_dropout must be at least 0 and below 1, not {self.unit_dropout!r}")
        try:
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise DeviceError(f"device={self.device!r} cannot be used: {str(error).splitlines()[0]}") from error

    def _windows(self, X: _Windows, y: _Labels, split: str) -> tuple[Any, Any]:  # noqa: N803
        """The trials of recordings as arrays; anything else as it is, for scikit-learn to check."""
        if isinstance(X, str | Path):
            X = Recordings(X)  # noqa: N806
        if isinstance(X, Recordings) and isinstance(y, str | Mapping | Task):
            return trial_windows(X, y, split=split, window_length=self.window_length)
        return X, y

    def _cut(self, X: np.ndarray) -> np.ndarray:  # noqa: N803
        """Windows as (R, N, T)."""
        if X.ndim == 2:
            if X.shape[1] % self.n_times:
                raise ValueError(f"X has {X.shape[1]} features, which is no multiple of n_times={self.n_times}")
            return X.reshape(len(X), -1, self.n_times)
        if X.ndim != 3:
            raise ValueError(f"Found array with dim {X.ndim}, while dim 2 or 3 is required by PopulationDecoder.")
        return X

    def _fit_target(self, y: np.ndarray) -> torch.Tensor:
        if _tells_classes(self):
            check_classification_targets(y)
            self.classes_, index = np.unique(y, return_inverse=True)
            return torch.from_numpy(index)
        self._one_number = y.ndim == 1
        target = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        self._target_mean, std = target.mean(axis=0), target.std(axis=0)
        self._target_std = np.where(std > 0, std, 1.0)
        return torch.from_numpy((target - self._target_mean) / self._target_std).float()

    def _make_model(self, target: torch.Tensor) -> CalciumPOYO:
        n_units, n_samples = self._shape
        outputs = len(self.classes_) if _tells_classes(self) else target.shape[1]
        readout: Values = {
            "dim_out": {_TASK: outputs},
            "readout": "prototypes" if _tells_classes(self) else "linear",
        }
        words = [f"array/{i}" for i in range(n_units)]
        if self.init_from is not None:
            pretrained = CalciumPOYO.from_pretrained(self.init_from)
            model = CalciumPOYO(**{**pretrained.arguments, **readout})
            load_weights(model, pretrained.state_dict(), source=self.init_from)
            replace_vocabulary(model.unit_emb, words)
            replace_vocabulary(model.session_emb, ["array"])
            if isinstance(model.readout, PrototypeReadout):
                model.readout.initialize_vocab(["array"])
            return model
        # About ten steps a window.
        patch_size = max(1, round(n_samples / 10))
        step = self.window_length / max(1, round(n_samples / patch_size))
        size: Values = {"dim": self.dim, "depth": self.depth, "self_heads": 2, "patch_size": patch_size}
        model = CalciumPOYO(sequence_length=self.window_length, latent_step=step, **size, **readout)
        model.set_vocabs(unit_ids=words, session_ids=["array"])
        return model

    def _train(self, patches: torch.Tensor, target: torch.Tensor) -> None:
        model, n_windows = self.model_, len(patches)
        size = min(self.batch_size, n_windows)
        if self.identify_steps:
            order = torch.randperm(n_windows).split(256)
            identify_units(model, [self._inputs(patches[rows]) for rows in order], steps=self.identify_steps)
        if isinstance(model.readout, PrototypeReadout):
            with torch.no_grad():
                latents = torch.cat(
                    [run_without_dropout(model, self._inputs(part)).processor_latents for part in patches.split(_CHUNK)]
                )
            sessions = torch.ones(n_windows, dtype=torch.long, device=latents.device)
            model.readout.fit(_TASK, latents, sessions, target)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.lr, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(self.max_steps, 1))
        loss_of = F.cross_entropy if _tells_classes(self) else F.smooth_l1_loss
        model.train()
        for _ in range(self.max_steps):
            rows = torch.randperm(n_windows)[:size]
            inputs = self._inputs(patches[rows])
            seen = torch.rand(inputs["input_mask"].shape[:2]) >= self.unit_dropout
            inputs["input_mask"] = inputs["input_mask"] & seen[..., None].to(self.device)
            loss = loss_of(model(**inputs)[_TASK], target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()

    def _patches(self, values: np.ndarray) -> torch.Tensor:
        """Standardized windows (R, N, T) as patches (R, N, P, S), the last filled up with zeros."""
        size = self.model_.patch_size
        scaled = ((values - self._mean) / self._std).astype(np.float32)
        n_patches = max(1, round(scaled.shape[2] / size))
        padded = np.zeros((*scaled.shape[:2], n_patches * size), dtype=np.float32)
        n_samples = min(scaled.shape[2], n_patches * size)
        padded[:, :, :n_samples] = scaled[:, :, :n_samples]
        return torch.from_numpy(padded).unflatten(2, (n_patches, size)).to(self.device)

    def _inputs(self, patches: torch.Tensor) -> dict[str, torch.Tensor]:
        n_windows, n_units, n_patches, _ = patches.shape
        length = self.model_.sequence_length
        inputs = {
            "input_values": patches,
            "input_unit_index": torch.arange(1, n_units + 1).expand(n_windows, -1),
            "input_timestamps": ((torch.arange(n_patches) + 0.5) * length / n_patches).expand(n_windows, -1),
            "input_mask": torch.ones(n_windows, n_units, n_patches, dtype=torch.bool),
            "session_index": torch.ones(n_windows, dtype=torch.long),
            "output_timestamps": torch.full((n_windows, 1), length / 2),
            "output_task_index": torch.zeros(n_windows, 1, dtype=torch.long),
        }
        return {name: value.to(self.device) for name, value in inputs.items()}

    def _batches(self, X: ArrayLike) -> list[torch.Tensor]:  # noqa: N803
        check_is_fitted(self, "model_")
        values = self._cut(validate_data(self, X, reset=False, dtype=np.float32, allow_nd=True))
        if values.shape[1:] != self._shape:
            raise ValueError(
                f"X has windows of {values.shape[1:]} neurons and samples, and was fitted to {self._shape}"
            )
        return list(self._patches(values).split(_CHUNK))

    @torch.no_grad()
    def _run(self, patches: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Latents (R, L * D) and answers of windows."""
        found = run_without_dropout(self.model_, self._inputs(patches))
        return found.processor_latents.flatten(1).cpu().numpy(), found.output[_TASK].cpu().numpy()

    def _answers(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        return np.concatenate([self._run(batch)[1] for batch in self._batches(X)])

    @property
    def _n_features_out(self) -> int:
        model = self.model_
        return len(model._latent_grid(torch.device("cpu"))[0]) * model.dim

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        classifies = _tells_classes(self)
        tags.estimator_type = "classifier" if classifies else "regressor"
        tags.classifier_tags = ClassifierTags() if classifies else None
        tags.regressor_tags = None if classifies else RegressorTags()
        tags.target_tags.required = True
        tags.target_tags.multi_output = not classifies
        tags.input_tags.three_d_array = True
        assert tags.transformer_tags is not None
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


# Checks of sklearn.utils.estimator_checks that fail, with the reason.
EXPECTED_FAILURES = {
    "check_methods_subset_invariance": "in float32, products of batches of other sizes differ in the sixth digit",
}
