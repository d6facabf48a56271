"""Fine-tuning to reconstruct the frames of a movie: windows, module, and what is measured of a test."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from poyo_ssl_plugin.data import Task, Trials, TrialSampler, get_task
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.frames.decoder import SkipConnectionDecoder
from poyo_ssl_plugin.frames.images import FRAMES_TASK, MovieFrames, find_frames_file, find_presentations, split_frames
from poyo_ssl_plugin.frames.losses import IMAGE_METRICS, FrameLoss, image_metrics
from poyo_ssl_plugin.models import run_with_latents
from poyo_ssl_plugin.plain import Batch, ModelInputs, ReadOnlyValues
from poyo_ssl_plugin.recordings import TRACES
from poyo_ssl_plugin.training.data import FinetuningData
from poyo_ssl_plugin.training.decoding import Decoding, Metric, TestResult
from poyo_ssl_plugin.training.inputs import Inputs
from poyo_ssl_plugin.training.module import TransferModule
from poyo_ssl_plugin.training.parsing import one_of, parse
from poyo_ssl_plugin.training.recipe import FinetuneRecipe

logger = logging.getLogger(__name__)

# Windows to validate on, and windows whose latents a linear decoder is fitted to, at most. Frames that
# follow each other are alike, so more would say little.
_MAX_VALIDATED = 256
_MAX_FITTED = 2048
_FRAMES_PER_SECOND = 30


class FrameData(FinetuningData):
    """Windows around presentations of a movie's frames, of those frames that a part may use.

    Args:
        frames: ``"train"``, ``"valid"`` and ``"test"`` to frames, as :func:`split_frames` gives.
        delay: Seconds from a frame to the middle of its window.
        **options: As :class:`FinetuningData`, without ``task``.
    """

    def __init__(self, *args: Any, frames: Mapping[str, np.ndarray], delay: float = 0.0, **options: Any) -> None:
        self.frames, self.delay = frames, delay
        super().__init__(*args, task=FRAMES_TASK, **options)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        return self._evenly("valid", _MAX_VALIDATED) if "valid" in self.samplers else []

    def fitting_dataloader(self) -> DataLoader[Batch]:
        """Training windows as a test would show them: centred, all neurons, in order, thinned out evenly."""
        return self._evenly("train", _MAX_FITTED)

    def _find(self, recording: str, part: str) -> Trials:
        return find_presentations(self.dataset.get_recording(recording), self.frames[part], self.split[part][recording])

    def _sampler(self, part: str) -> TrialSampler:
        return TrialSampler(
            self.trials(part),
            window_length=self.window_length,
            jitter=part == "train",
            generator=self._generator(),
            delay=self.delay,
        )

    def _evenly(self, part: str, limit: int) -> DataLoader[Batch]:
        windows = list(TrialSampler(self.trials(part), window_length=self.window_length, delay=self.delay))
        rows = np.linspace(0, len(windows) - 1, min(len(windows), limit)).round().astype(int)
        return self._loader([windows[i] for i in rows], training=False)


class FrameDecoding(TransferModule):
    r"""Supervised training of a POYO-family model and a frame decoder to reconstruct a movie.

    The model's query for the time of the frame attends to its latents and is read out to a latent vector,
    from which the decoder makes an image: :math:`\sigma(\mathrm{logit}(b) + d(z))` with a base image
    :math:`b`.

    Args:
        model: The model, its vocabularies initialised, with a readout named as the task.
        decoder: The frame decoder.
        movie: The images.
        base: The base image, (H, W) of values in [0, 1].
        loss: The loss between images.
        **options: As :class:`TransferModule`.
    """

    base: torch.Tensor
    images: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        decoder: SkipConnectionDecoder,
        movie: MovieFrames,
        base: torch.Tensor,
        loss: FrameLoss,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.decoder, self.loss, self.movie = decoder, loss, movie
        self.fresh = (*self.fresh, *(name for name, _ in decoder.named_children()))
        self.register_buffer("base", base.clamp(0.01, 0.99))
        # The movie is not part of what was learned.
        self.register_buffer("images", as_images(movie.image), persistent=False)

    def forward(self, inputs: ModelInputs) -> torch.Tensor:
        """Frames at the queried times, :math:`(K, H, W)` for the K real queries of the batch."""
        return self.to_image(self.model(**inputs)[FRAMES_TASK.name])

    def to_image(self, latent: torch.Tensor) -> torch.Tensor:
        """Images of latent vectors (K, D)."""
        return torch.sigmoid(torch.logit(self.base) + self.decoder(latent))

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        loss, terms = self.loss(self(batch["inputs"]), self._true(batch))
        size = len(batch["target"])
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, batch_size=size)
        self.log("train/loss", loss.detach(), batch_size=size, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        latent_pass = run_with_latents(self.model, batch["inputs"])
        self.health.update(latent_pass.processor_latents)
        self._measure(self.to_image(latent_pass.output[FRAMES_TASK.name]), batch, "valid")

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Keep one row per presentation of the test; its windows ask one question each."""
        measured = self._measure(self(batch["inputs"]), batch, "test")
        frames = batch["target"][:, 0].tolist()
        times = (batch["start"] + batch["inputs"]["output_timestamps"][:, 0].cpu()).tolist()
        columns = [measured[name].tolist() for name in IMAGE_METRICS]
        for recording, time, frame, *values in zip(batch["recording_id"], times, frames, *columns, strict=True):
            scores = {name: round(value, 5) for name, value in zip(IMAGE_METRICS, values, strict=True)}
            self.predictions.append({"recording_id": recording, "time": round(time, 4), "label": frame, **scores})

    def predict_step(
        self, batch: Batch, batch_index: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
        """Latent vectors (K, D), their images as bytes (K, H, W), the frames shown (K,), and ids of recordings."""
        latent = self.model(**batch["inputs"])[FRAMES_TASK.name]
        images = as_bytes(self.to_image(latent))
        return latent.float(), images, batch["target"][batch["asked"]], list(batch["recording_id"])

    def trained(self) -> list[nn.Module]:
        return [self.model, self.decoder]

    def _true(self, batch: Batch) -> torch.Tensor:
        frames = batch["target"][batch["asked"]]
        rows = torch.from_numpy(self.movie.rows(frames.cpu().numpy()))
        return self.images[rows.to(self.images.device)]

    def _measure(self, predicted: torch.Tensor, batch: Batch, part: str) -> dict[str, torch.Tensor]:
        true = self._true(batch)
        measured = image_metrics(predicted, true)
        means = {f"{part}/{name}": values.mean() for name, values in measured.items()}
        self.log_dict({f"{part}/loss": self.loss(predicted, true)[0], **means}, batch_size=len(true))
        return measured


def _size(key: str, value: object) -> None:
    if not isinstance(value, list) or len(value) != 2 or min(value) < 11:
        raise RecipeError(f"{key} must be [height, width] of at least 11 pixels, not {value}")


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """Which frames are reconstructed from which windows; meanings in ``recipes/finetune_natural_movie_frames.yaml``."""

    protocol: str = "repeats"
    fold: int = 0
    n_folds: int = 5
    n_blocks: int = 10
    gap: int = 30
    file: str | None = None
    size: Annotated[list[int] | None, _size] = None
    delay: float = 0.0
    base: Annotated[str, one_of("mean", "grey")] = "mean"


class FrameReconstruction(Decoding):
    """Reconstruct the frames of natural movie one."""

    metric = Metric("ssim", "SSIM", tested="shown frames", samples="seconds of the movie", bounds=(-1.0, 1.0))
    task = FRAMES_TASK
    chance = None

    def __init__(self, recipe: FinetuneRecipe, inputs: Inputs | None = None) -> None:
        super().__init__(recipe, inputs)
        if recipe.frames is None or recipe.decoder is None or recipe.frame_loss is None:
            raise RecipeError(
                f"the task {FRAMES_TASK.name!r} has keys of its own: use --recipe natural_movie_frames "
                "(from scratch: with init_from=null)"
            )
        self.options = parse(FrameOptions, recipe.frames, "frames.")
        self.decoder, self.loss_weights = recipe.decoder, recipe.frame_loss["weights"]

    @property
    def n_outputs(self) -> int:
        return int(self.decoder["latent_dim"])

    @property
    def label_task(self) -> Task:
        # Frames are no classes; which second of the same movie it is, is told among 30.
        return get_task("natural_movie")

    def describe(self) -> str:
        if self.options.protocol == "frames":
            return "SSIM of frames that training did not see"
        return "SSIM of frames, on repeats of the movie that training did not see"

    def check(self, *, field: str) -> None:
        if self.recipe.shuffle_labels:
            raise RecipeError(
                f"the task {FRAMES_TASK.name!r} has images and no labels to shuffle (shuffle_labels=true); leave it "
                "out of arms=[...], and take task=natural_movie for that control"
            )
        if field != TRACES:
            raise RecipeError(f"frames are reconstructed from {TRACES} only, not from field={field}")
        self.movie, self.frames  # noqa: B018  # reads them

    def data(self, inputs: Inputs, *, seed: int = 0) -> FrameData:
        options = {"delay": self.options.delay, "seed": seed, **self._data_options()}
        return FrameData(*self._data_arguments(inputs), frames=self.frames, **options)

    def module(self, model: nn.Module, record: ReadOnlyValues) -> FrameDecoding:
        used = ", ".join(f"{part} {len(rows)}" for part, rows in self.frames.items())
        logger.info("movie: %d of %d frames have an image; %s", len(self.movie), FRAMES_TASK.n_classes, used)
        try:
            decoder = SkipConnectionDecoder(size=self.movie.size, **self.decoder)
        except TypeError as error:
            raise RecipeError(f"decoder: {error}") from None
        return FrameDecoding(
            model,
            decoder,
            self.movie,
            self._base(),
            FrameLoss(self.loss_weights),
            **self._module_options(record),
        )

    def test_result(self, predictions: Sequence[ReadOnlyValues]) -> TestResult:
        """Mean SSIM over presentations; the samples are seconds of the movie, since frames in a row are alike."""
        means = {name: float(np.mean([row[name] for row in predictions])) for name in IMAGE_METRICS}
        seconds: dict[str, list[float]] = {}
        for row in predictions:
            name = f"{row['recording_id']}/{row['label'] // _FRAMES_PER_SECOND}"
            seconds.setdefault(name, []).append(row["ssim"])
        trials = [float(np.mean(values)) for values in seconds.values()]
        return TestResult(means.pop("ssim"), len(predictions), trials, list(seconds), means)

    @cached_property
    def movie(self) -> MovieFrames:
        """The images, in the size that the recipe asks for."""
        movie = MovieFrames.load(find_frames_file(self.recipe.data.folder, self.options.file))
        if self.options.size is None:
            return movie
        resized = F.interpolate(as_images(movie.image)[:, None], self.options.size, mode="bilinear", antialias=True)
        return MovieFrames(as_bytes(resized[:, 0]).numpy(), movie.frame)

    @cached_property
    def frames(self) -> dict[str, np.ndarray]:
        """The frames that each part of the split uses."""
        names = ("protocol", "fold", "n_folds", "n_blocks", "gap")
        return split_frames(self.movie.frame, **{name: getattr(self.options, name) for name in names})

    def _base(self) -> torch.Tensor:
        mean = as_images(self.movie.image[self.movie.rows(self.frames["train"])]).mean(dim=0)
        return mean if self.options.base == "mean" else torch.full_like(mean, 0.5)


def as_images(image: np.ndarray) -> torch.Tensor:
    """Bytes as float32 in [0, 1]."""
    return torch.from_numpy(image).float() / 255


def as_bytes(images: torch.Tensor) -> torch.Tensor:
    """Values in [0, 1] as uint8."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
