"""Fine-tuning to reconstruct the frames of a movie: windows, module and run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader

from poyo_ssl_plugin.data import (
    MOVIE_FRAMES_TASK,
    MovieFrames,
    Trials,
    TrialSampler,
    find_frames_file,
    find_presentations,
)
from poyo_ssl_plugin.data.frames import split_frames
from poyo_ssl_plugin.errors import CheckpointError, RecipeError
from poyo_ssl_plugin.models import (
    SkipConnectionDecoder,
    model_state,
    read_checkpoint,
    run_with_latents,
)
from poyo_ssl_plugin.objectives import FrameLoss
from poyo_ssl_plugin.training.data import FinetuningData, _Fixed
from poyo_ssl_plugin.training.frame_metrics import FRAME_METRICS, frame_metrics
from poyo_ssl_plugin.training.module import TransferModule
from poyo_ssl_plugin.training.recipe import (
    Inputs,
    build_model,
    data_options,
    describe,
    initialise,
    make_recipe_diet,
    must_fit,
    plain,
    recorded_recipe,
    require,
    resolved,
)
from poyo_ssl_plugin.training.run import RunResult, leaks_of
from poyo_ssl_plugin.training.session import run_session
from poyo_ssl_plugin.training.trainer import fit, last_checkpoint, make_tester, make_trainer, numbers

logger = logging.getLogger(__name__)

# Windows to validate on, and windows whose latents a linear decoder is fitted to, at most. Frames that
# follow each other are alike, so more would say little.
_MAX_VALIDATED = 256
_MAX_FITTED = 2048


class FrameData(FinetuningData):
    """Windows around presentations of a movie's frames, of those frames that a part may use.

    Args:
        frames: ``"train"``, ``"valid"`` and ``"test"`` to frames, as :func:`split_frames` gives.
        delay: Seconds from a frame to the middle of its window.
        **options: As :class:`FinetuningData`, without ``task``.
    """

    def __init__(self, *args: Any, frames: Mapping[str, np.ndarray], delay: float = 0.0, **options: Any) -> None:
        self.frames, self.delay = frames, delay
        super().__init__(*args, task=MOVIE_FRAMES_TASK, **options)

    def _find(self, recording: str, part: str) -> Trials:
        """Presentations of a part's frames in its times."""
        return find_presentations(self.dataset.get_recording(recording), self.frames[part], self.split[part][recording])

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self._fixed("valid", _MAX_VALIDATED) if "valid" in self.samplers else []

    def fitting_dataloader(self) -> DataLoader[Any]:
        """Training windows as a test would show them: centred, all neurons, in order, thinned out evenly."""
        return self._fixed("train", _MAX_FITTED)

    def _fixed(self, part: str, limit: int) -> DataLoader[Any]:
        windows = list(TrialSampler(self.trials(part), window_length=self.window_length, delay=self.delay))
        rows = np.linspace(0, len(windows) - 1, min(len(windows), limit)).round().astype(int)
        return self._loader(_Fixed([windows[i] for i in rows]), training=False)

    def _sampler(self, part: str) -> TrialSampler:
        trials = self.trials(part)
        n_trials = sum(map(len, trials.values()))
        return TrialSampler(
            trials,
            window_length=self.window_length,
            jitter=part == "train",
            generator=self._generator(),
            repeats=max(1, 16 * self.batch_size // max(n_trials, 1)) if part == "train" else 1,
            delay=self.delay,
        )


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
        self.decoder, self.loss = decoder, loss
        self.fresh = (*self.fresh, *(name for name, _ in decoder.named_children()))
        self.movie = movie
        self.register_buffer("base", base.clamp(0.01, 0.99))
        # The movie is not part of what was learned.
        self.register_buffer("images", as_images(movie.image), persistent=False)
        self.predictions: list[dict[str, Any]] = []
        self.reconstructions: list[torch.Tensor] = []
        self.latents: list[torch.Tensor] = []

    def forward(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Frames at the queried times, :math:`(K, H, W)` for the K real queries of the batch."""
        return self.to_image(self.model(**inputs)[MOVIE_FRAMES_TASK.name])

    def to_image(self, latent: torch.Tensor) -> torch.Tensor:
        """Images of latent vectors (K, D)."""
        return torch.sigmoid(torch.logit(self.base) + self.decoder(latent))

    def training_step(self, batch: dict[str, Any], batch_index: int) -> torch.Tensor:
        loss, terms = self.loss(self(batch["inputs"]), self._true(batch))
        size = len(batch["target"])
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, batch_size=size)
        self.log("train/loss", loss.detach(), batch_size=size, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        latent_pass = run_with_latents(self.model, batch["inputs"])
        self.health.update(latent_pass.processor_latents)
        predicted = self.to_image(latent_pass.output[MOVIE_FRAMES_TASK.name])
        self._measure(predicted, batch, "valid")

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        latent = self.model(**batch["inputs"])[MOVIE_FRAMES_TASK.name]
        self.latents.append(latent.float().cpu())
        predicted = self.to_image(latent)
        measured = self._measure(predicted, batch, "test")
        self._keep(predicted, measured, batch)

    def predict_step(self, batch: dict[str, Any], batch_index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent vectors (K, D) and the frames they are of (K,)."""
        latent = self.model(**batch["inputs"])[MOVIE_FRAMES_TASK.name]
        return latent, batch["target"][batch["asked"]]

    def on_test_epoch_start(self) -> None:
        self.predictions, self.reconstructions, self.latents = [], [], []

    def trained(self) -> list[nn.Module]:
        return [self.model, self.decoder]

    def _true(self, batch: dict[str, Any]) -> torch.Tensor:
        frames = batch["target"][batch["asked"]]
        rows = torch.from_numpy(self.movie.rows(frames.cpu().numpy()))
        return self.images[rows.to(self.images.device)]

    def _measure(self, predicted: torch.Tensor, batch: dict[str, Any], part: str) -> dict[str, torch.Tensor]:
        true = self._true(batch)
        loss, _ = self.loss(predicted, true)
        measured = frame_metrics(predicted, true)
        means = {f"{part}/{name}": values.mean() for name, values in measured.items()}
        self.log_dict({f"{part}/loss": loss, **means}, batch_size=len(true))
        return measured

    def _keep(self, predicted: torch.Tensor, measured: dict[str, torch.Tensor], batch: dict[str, Any]) -> None:
        """One row per presentation of the test; its windows ask one question each."""
        frames = batch["target"][:, 0].tolist()
        times = (batch["start"] + batch["inputs"]["output_timestamps"][:, 0].cpu()).tolist()
        columns = [measured[name].tolist() for name in FRAME_METRICS]
        for recording, time, frame, *values in zip(batch["recording_id"], times, frames, *columns, strict=True):
            scores = {name: round(value, 5) for name, value in zip(FRAME_METRICS, values, strict=True)}
            self.predictions.append({"recording_id": recording, "time": round(time, 4), "frame": frame, **scores})
        self.reconstructions.append(as_bytes(predicted.detach().cpu()))


@dataclass
class FrameResult(RunResult):
    """What came of a run that reconstructs frames.

    Attributes:
        reconstructions: The reconstructed frames of the test, uint8 (R, H, W), in the order of ``predictions``.
        test_latents: The latent vectors they were decoded from, (R, D).
        train_latents: Latent vectors (K, D) of training windows, and their frames (K,).
    """

    reconstructions: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    test_latents: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    train_latents: tuple[np.ndarray, np.ndarray] | None = None


@run_session
def finetune_frames(config: DictConfig, inputs: Inputs | None = None, *, seed: int = 0) -> FrameResult:
    """Run a recipe that reconstructs movie frames with one seed, and test it.

    Args:
        config: A composed recipe, ``finetune_natural_movie_frames`` or one like it.
        inputs: What to read, if not what the recipe says.
        seed: Seed of the weights, the windows and the dropout.

    Raises:
        PoyoSSLError: If the recipe or what it names is not as it must be.
    """
    config = resolved(config)
    require(config, "init_from", "a pretrained checkpoint; init_from=null trains from scratch", null=True)
    movie, frames = read_movie(config)
    inputs = inputs or Inputs.from_recipe(config)
    L.seed_everything(seed, workers=True, verbose=False)
    data = frame_data(config, inputs, frames, seed=seed)
    model = build_model(config, data, {MOVIE_FRAMES_TASK.name: config.decoder.latent_dim})
    loaded = initialise(model, config, data, keep_words=False)
    record = describe(config, model, data, data.split["train"], inputs.skipped)
    record["leaks"] = leaks_of(config, inputs, data)
    module = _module(config, model, movie, frames, record)
    trainer = make_trainer(config, monitor="valid/ssim", mode="max")
    trained = fit(config, trainer, module, data)
    trainer.test(module, data, verbose=False)
    metrics = {**trained, **numbers(trainer)}
    run = RunResult(Path(config.out_dir), last_checkpoint(config), metrics, loaded=loaded, leaks=record["leaks"])
    result = _frame_result(run, module)
    fitted: Any = trainer.predict(module, data.fitting_dataloader())
    latents, labels = zip(*fitted, strict=True)
    result.train_latents = torch.cat(latents).float().cpu().numpy(), torch.cat(labels).cpu().numpy()
    return result


@run_session
def evaluate_frames(checkpoint: str | Path, overrides: Mapping[str, Any] | None = None) -> FrameResult:
    """Test a checkpoint that reconstructs movie frames on the test split of its recordings.

    Args:
        checkpoint: A checkpoint of :func:`finetune_frames`.
        overrides: Dotted keys of its recipe to change.

    Raises:
        CheckpointError: If it is not such a checkpoint.
    """
    content = read_checkpoint(checkpoint)
    if not reconstructs_frames(content):
        raise CheckpointError(f"{checkpoint}: not of a run that reconstructs movie frames")
    config = recorded_recipe(content, overrides, source=checkpoint)
    movie, frames = read_movie(config)
    data = frame_data(config, Inputs.from_recipe(config), frames)
    model = build_model(config, data, {MOVIE_FRAMES_TASK.name: config.decoder.latent_dim})
    module = _module(config, model, movie, frames, content["hyper_parameters"])
    with must_fit(checkpoint):
        model.load_state_dict(model_state(content))
        module.decoder.load_state_dict(_part(content, "decoder."))
        module.base.copy_(content["state_dict"]["base"])
    trainer = make_tester(config)
    trainer.test(module, data, verbose=False)
    return _frame_result(RunResult(Path(checkpoint).parent, Path(checkpoint), numbers(trainer)), module)


def reconstructs_frames(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of a run that reconstructs movie frames."""
    return content["hyper_parameters"].get("recipe", {}).get("task") == MOVIE_FRAMES_TASK.name


def read_movie(config: DictConfig) -> tuple[MovieFrames, dict[str, np.ndarray]]:
    """The images of a recipe, in the size it asks for, and which frames each part uses.

    Raises:
        PoyoSSLError: If they cannot be had.
    """
    if "frames" not in config or "decoder" not in config or "frame_loss" not in config:
        raise RecipeError(
            f"the task {MOVIE_FRAMES_TASK.name!r} has keys of its own: use --recipe natural_movie_frames "
            "(from scratch: with init_from=null)"
        )
    require(config, "data.root", "the folder of the recordings")
    options = config.frames
    movie = MovieFrames.load(find_frames_file(config.data.root, options.file))
    names = ("protocol", "fold", "n_folds", "n_blocks", "gap")
    frames = split_frames(movie.frame, **{name: options[name] for name in names})
    if options.size is not None:
        size = [int(n) for n in options.size]
        if len(size) != 2 or min(size) < 11:
            raise RecipeError(f"frames.size must be [height, width] of at least 11 pixels, not {size}")
        resized = F.interpolate(as_images(movie.image)[:, None], size, mode="bilinear", antialias=True)
        movie = MovieFrames(as_bytes(resized[:, 0]).numpy(), movie.frame)
    return movie, frames


def base_image(movie: MovieFrames, frames: Mapping[str, np.ndarray], base: str) -> torch.Tensor:
    """The image that the decoder corrects, (H, W).

    Raises:
        RecipeError: If it is neither ``"mean"`` nor ``"grey"``.
    """
    if base not in ("mean", "grey"):
        raise RecipeError(f"frames.base must be 'mean' or 'grey', not {base!r}")
    mean = as_images(movie.image[movie.rows(frames["train"])]).mean(dim=0)
    return mean if base == "mean" else torch.full_like(mean, 0.5)


def as_images(image: np.ndarray) -> torch.Tensor:
    """Bytes as float32 in [0, 1]."""
    return torch.from_numpy(image).float() / 255


def as_bytes(images: torch.Tensor) -> torch.Tensor:
    """Values in [0, 1] as uint8."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def frame_data(config: DictConfig, inputs: Inputs, frames: Mapping[str, np.ndarray], *, seed: int = 0) -> FrameData:
    """The windows of a recipe; ``frames`` as :func:`read_movie` gives them."""
    diet = make_recipe_diet(config, inputs.table)
    return FrameData(
        inputs.dataset,
        inputs.table,
        diet,
        inputs.split,
        frames=frames,
        delay=config.frames.delay,
        seed=seed,
        label_fraction=config.get("label_fraction", 1.0),
        **data_options(config),
    )


def _module(
    config: DictConfig,
    model: nn.Module,
    movie: MovieFrames,
    frames: Mapping[str, np.ndarray],
    record: Mapping[str, Any],
) -> FrameDecoding:
    used = ", ".join(f"{part} {len(rows)}" for part, rows in frames.items())
    logger.info("movie: %d of %d frames have an image; %s", len(movie), MOVIE_FRAMES_TASK.n_classes, used)
    options = cast("dict[str, Any]", OmegaConf.to_container(config.decoder))
    try:
        decoder = SkipConnectionDecoder(size=movie.size, **options)
    except TypeError as error:
        raise RecipeError(f"decoder: {error}") from None
    weights = cast("dict[str, float]", OmegaConf.to_container(config.frame_loss.weights))
    return FrameDecoding(
        model,
        decoder,
        movie,
        base_image(movie, frames, config.frames.base),
        FrameLoss(weights),
        transfer=config.transfer,
        probe_fraction=config.probe_fraction,
        hyper_parameters=record,
        **plain(config.optim, "optimizer", "schedule"),
    )


def _frame_result(plain: RunResult, module: FrameDecoding) -> FrameResult:
    return FrameResult(
        plain.out_dir,
        plain.checkpoint,
        plain.metrics,
        predictions=module.predictions,
        loaded=plain.loaded,
        leaks=plain.leaks,
        task=MOVIE_FRAMES_TASK.name,
        reconstructions=torch.cat(module.reconstructions).numpy(),
        test_latents=torch.cat(module.latents).numpy(),
    )


def _part(content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
