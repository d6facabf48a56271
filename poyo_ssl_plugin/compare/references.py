"""Simple decoders on exactly the windows that the model gets: what a model has to beat.

Same neurons, patches, standardisation, trials and training jitter. Only the whitened template sees something
else, unlabelled windows of the training time, as an identified model does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from poyo_ssl_plugin.compare.estimates import binomial_interval, estimate
from poyo_ssl_plugin.compare.results import TestedDecoder
from poyo_ssl_plugin.data import get_task
from poyo_ssl_plugin.frames import FRAMES_TASK
from poyo_ssl_plugin.frames.simple_decoders import frame_references, template
from poyo_ssl_plugin.frames.task import FrameReconstruction
from poyo_ssl_plugin.models import initialise
from poyo_ssl_plugin.plain import Batch, Values
from poyo_ssl_plugin.training.data import FinetuningData
from poyo_ssl_plugin.training.decoding import LOG_LOSS, Decoding, TestResult, decoding_of
from poyo_ssl_plugin.training.identify_neurons import unlabelled_data
from poyo_ssl_plugin.training.inputs import Inputs
from poyo_ssl_plugin.training.recipe import FinetuneRecipe

N_UNLABELLED, N_OF_EACH = 2048, 256
# More features than this have no covariance that fits into memory.
MOST_FEATURES = 8192
Whitening = Callable[[np.ndarray], np.ndarray]
_SOFTMAX = "softmax regression"
_OF_CLASSES = ("template", "whitened template", _SOFTMAX)


@dataclass(frozen=True)
class Windows:
    """Windows as the model gets them, one row each.

    Attributes:
        features: Patch means of every neuron, float32 (R, P N); of a model of spikes, counts.
        label: Classes, int64 (R,), or targets of a regression, (R, D).
        recording: Recording of each row, (R,).
        time: When each is asked for, in seconds, (R,).
    """

    features: list[np.ndarray]
    label: np.ndarray
    recording: np.ndarray
    time: np.ndarray

    def of(self, recording: str) -> tuple[np.ndarray, np.ndarray]:
        """Features (R, F) and labels (R,) of one recording."""
        rows = np.flatnonzero(self.recording == recording)
        return np.stack([self.features[row] for row in rows]), self.label[rows]


def reference_rows(recipe: FinetuneRecipe, folds: Iterable[Inputs]) -> dict[str, TestedDecoder]:
    """Test the simple decoders of a task on the neurons, windows and folds of a fine-tuning recipe."""
    if recipe.task == FRAMES_TASK.name:
        tested = frame_references(FrameReconstruction(recipe), folds)
        return {name: tested_decoder(result) for name, result in tested.items()}
    if get_task(recipe.task).kind == "regression":
        return {"ridge regression": tested_decoder(_ridge_result(recipe, folds))}
    told: dict[str, list[Told]] = {}
    for inputs in folds:
        for name, of_fold in run_references(recipe, inputs).items():
            told.setdefault(name, []).append(of_fold)
    return {name: _classified(parts) for name, parts in told.items()}


def tested_decoder(result: TestResult) -> TestedDecoder:
    """What is said of a test whose samples are no trials."""
    return TestedDecoder(
        result.value, result.n_test, estimate(result.trials).ci95, result.further, trials=[result.trials]
    )


def _classified(told: list[Told]) -> TestedDecoder:
    every = np.concatenate([of_fold.right for of_fold in told])
    losses = [of_fold.log_loss for of_fold in told if of_fold.log_loss is not None]
    interval = binomial_interval(int(every.sum()), len(every))
    trials = [of_fold.right.astype(float).tolist() for of_fold in told]
    further = {LOG_LOSS: float(np.concatenate(losses).mean())} if losses else {}
    return TestedDecoder(float(every.mean()), len(every), interval, further, trials=trials)


@dataclass(frozen=True)
class Told:
    """What a simple decoder told of the trials of a test, in their order.

    Attributes:
        right: Whether it named the class, bool (R,).
        log_loss: Minus the log of the probability that it gave the class, in nats, (R,); ``None`` of a decoder
            without probabilities.
    """

    right: np.ndarray
    log_loss: np.ndarray | None = None


def run_references(recipe: FinetuneRecipe, inputs: Inputs) -> dict[str, Told]:
    """Fit and test the simple decoders of a classification on each recording.

    Args:
        recipe: The fine-tuning recipe of a classification.
        inputs: Recordings, scores and split.

    Returns:
        ``"template"`` (correlation with the mean response to each class), ``"whitened template"`` (the same after
        whitening by the covariance of unlabelled training windows, shrunk as Ledoit and Wolf 2004), and
        ``"softmax regression"``, each to what it told.
    """
    decoding = decoding_of(recipe, inputs)
    data, model = _data_of_a_model(recipe, inputs, decoding)
    train, test = _windows(data.labelled_windows(), model), _windows(data.test_dataloader(), model)
    random = unlabelled_data(recipe, inputs, data, model, batch_size=128)
    # Windows come in random order, so many recordings need more, for each to have some.
    n_unlabelled = max(N_UNLABELLED, N_OF_EACH * len(data.recordings))
    unlabelled = _windows(random.train_dataloader(), model, limit=n_unlabelled)
    right = {name: np.zeros(len(test.label), dtype=bool) for name in _OF_CLASSES}
    # A recording without a labelled trial teaches them nothing: they tell none of its test right, and all classes
    # are alike to them.
    loss = np.full(len(test.label), np.log(decoding.n_outputs))
    for recording in np.intersect1d(test.recording, train.recording):
        (x, label), (x_test, truth) = train.of(recording), test.of(recording)
        whiten = whitening(unlabelled.of(recording)[0])
        classes, probability = softmax_regression(x, label, x_test)
        guesses = (
            template(x, label, x_test),
            template(whiten(x), label, whiten(x_test)),
            classes[probability.argmax(axis=1)],
        )
        rows = test.recording == recording
        for name, guess in zip(_OF_CLASSES, guesses, strict=True):
            right[name][rows] = guess == truth
        # Clipped as scikit-learn clips it; a class that was not taught has no probability.
        given = (probability * (classes == truth[:, None])).sum(axis=1)
        loss[rows] = -np.log(np.maximum(given, np.finfo(float).eps))
    return {name: Told(of_name, loss if name == _SOFTMAX else None) for name, of_name in right.items()}


def _ridge_result(recipe: FinetuneRecipe, folds: Iterable[Inputs]) -> TestResult:
    """Fit and test ridge regression on each recording, on the windows that the model gets."""
    rows: list[Values] = []
    for inputs in folds:
        decoding = decoding_of(recipe, inputs)
        data, model = _data_of_a_model(recipe, inputs, decoding)
        train, test = _windows(data.labelled_windows(), model), _windows(data.test_dataloader(), model)
        for recording in np.unique(test.recording):
            (x, target), (x_test, truth) = train.of(recording), test.of(recording)
            order = np.argsort(train.time[train.recording == recording])
            guess = ridge(x[order], target[order], x_test)
            times = test.time[test.recording == recording]
            pairs = zip(times.tolist(), truth.tolist(), guess.tolist(), strict=True)
            rows += [{"recording_id": recording, "time": t, "label": y, "prediction": z} for t, y, z in pairs]
    return decoding_of(recipe).test_result(rows)


def ridge(train: np.ndarray, target: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Targets (R, D) of test rows by ridge regression; rows of training are in the order of time.

    The penalty is the best of five blocks of time, so that jittered windows of one moment are not told from each
    other.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    penalties = np.logspace(0, 5, 11)
    model = make_pipeline(StandardScaler(), RidgeCV(penalties, cv=KFold(min(5, len(train)))))
    return model.fit(train, target).predict(test).reshape(len(test), -1)


def _data_of_a_model(recipe: FinetuneRecipe, inputs: Inputs, decoding: Decoding) -> tuple[FinetuningData, Any]:
    """The windows of a recipe as its model gets them; the model only makes its inputs, and stays as it was made."""
    data = decoding.data(inputs)
    model = decoding.model(recipe.model)
    data.attach(model)
    initialise(model, data.unit_ids, data.session_ids)
    return data, model


def whitening(unlabelled: np.ndarray) -> Whitening:
    """A map (R, F) -> (R, F) that whitens, by the shrunk covariance of unlabelled rows."""
    from sklearn.covariance import ledoit_wolf

    mean, std = unlabelled.mean(axis=0), unlabelled.std(axis=0) + 1e-6
    if unlabelled.shape[1] > MOST_FEATURES:
        root_of_many = _whitening_of_many((unlabelled - mean) / std)
        return lambda rows: root_of_many((rows - mean) / std)
    covariance, _ = ledoit_wolf((unlabelled - mean) / std)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors / np.sqrt(np.maximum(values, 1e-6))) @ vectors.T
    return lambda rows: ((rows - mean) / std) @ root


def _whitening_of_many(scaled: np.ndarray) -> Whitening:
    """The same for centred rows (R, F), from their inner products (R, R) instead of a covariance (F, F)."""
    n, p = scaled.shape
    gram = (scaled @ scaled.T).astype(float)
    mu, squares = np.trace(gram) / (n * p), (gram**2).sum() / n**2
    delta = squares / p - mu**2
    shrinkage = min(((np.diag(gram) ** 2).sum() / n - squares) / (n * p), delta) / delta
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * 1e-9
    axes = scaled.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    floor = np.sqrt(max(shrinkage * mu, 1e-6))
    scale = 1 / np.sqrt((1 - shrinkage) * values[kept] / n + floor**2) - 1 / floor
    return lambda rows: rows / floor + ((rows @ axes) * scale) @ axes.T


def softmax_regression(train: np.ndarray, label: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial regression, its penalty in proportion to the number of features.

    Returns:
        The classes (C,) that were taught, and their probabilities for each test row, (R, C).
    """
    from sklearn.linear_model import LogisticRegression

    if (label == label[0]).all():
        return label[:1], np.ones((len(test), 1))
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
    model = LogisticRegression(C=1.0 / train.shape[1], max_iter=40, tol=1e-3)
    scaled = ((train - mean) / std).astype(np.float32)
    model.fit(scaled, label)
    return model.classes_, model.predict_proba(((test - mean) / std).astype(np.float32)).astype(float)


def _windows(batches: Iterable[Batch], model: Any, limit: int | None = None) -> Windows:
    """Rows of a loader's batches."""
    features: list[np.ndarray] = []
    label: list[int] = []
    recording: list[str] = []
    time: list[float] = []
    n_bins = round(model.sequence_length / model.latent_step)
    for batch in batches:
        inputs = {name: value.numpy() for name, value in batch["inputs"].items() if name.startswith("input_")}
        for row, name in enumerate(batch["recording_id"]):
            of_window = {key: value[row] for key, value in inputs.items()}
            by_neuron = "input_values" in inputs and inputs["input_values"].ndim == 4
            features.append(
                _patch_means(of_window) if by_neuron else _token_counts(of_window, model.sequence_length, n_bins)
            )
            recording.append(str(name))
        label += batch["target"][:, 0].tolist()
        time += (batch["start"] + batch["inputs"]["output_timestamps"][:, 0]).tolist()
        if limit is not None and len(features) >= limit:
            break
    return Windows(features, np.array(label), np.array(recording), np.array(time))


def _patch_means(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Patch means (P N) of the neurons of one window, in the order of the vocabulary."""
    units = inputs["input_unit_index"]
    real = units > 0
    return inputs["input_values"][real][np.argsort(units[real])].mean(axis=-1).reshape(-1)


def _token_counts(inputs: dict[str, np.ndarray], length: float, n_bins: int) -> np.ndarray:
    """Tokens (spikes, or samples by their values) in bins as long as a latent step, (N bins)."""
    real = inputs["input_mask"].astype(bool)
    # Every unit has tokens at both ends of the window, which are no spikes.
    units, unit = np.unique(inputs["input_unit_index"][real], return_inverse=True)
    times = inputs["input_timestamps"][real]
    weight = np.ones(len(times))
    if "input_values" in inputs:
        weight = inputs["input_values"][real].reshape(len(times), -1).mean(axis=1)
    if "input_token_type" in inputs:
        weight = weight * (inputs["input_token_type"][real] == 0)
    counts = np.zeros((len(units), n_bins), dtype=np.float32)
    np.add.at(counts, (unit, np.clip((times / length * n_bins).astype(int), 0, n_bins - 1)), weight)
    return counts.reshape(-1)
