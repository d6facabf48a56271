"""Weights that travel: a folder with safetensors and a model card, here or on the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from poyo_ssl_plugin.errors import CheckpointError
from poyo_ssl_plugin.files import atomic_path
from poyo_ssl_plugin.models.card import model_card
from poyo_ssl_plugin.models.checkpoint import (
    first_line,
    model_arguments,
    model_state,
    read_checkpoint,
    write_safetensors,
)
from poyo_ssl_plugin.models.poyo_plus import arguments_of, as_calcium_poyo, is_calcium_poyo_plus
from poyo_ssl_plugin.plain import State, Values

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_Model = TypeVar("_Model", bound="PretrainedModel")


class PretrainedModel(nn.Module):
    """A model that is written to, and read from, checkpoints, folders and the Hugging Face Hub.

    Attributes:
        arguments: What it was made with, in plain values.
        record: What its checkpoint says of it: recipe, neurons, recordings, leaks. Empty for a new model.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> folder = model.save_pretrained(tempfile.mkdtemp())
        >>> sorted(path.name for path in folder.iterdir()), CalciumPOYO.from_pretrained(folder).arguments["dim"]
        (['README.md', 'config.json', 'model.safetensors'], 16)
    """

    arguments: Values
    record: Mapping[str, Any] = {}

    @classmethod
    def load_pretrained(cls: type[_Model], checkpoint_path: str | Path) -> _Model:
        """Load a model from a checkpoint with ``hyper_parameters["model"]`` and ``state_dict``.

        The contract is that of ``POYO.load_pretrained``: ``_target_`` is left out, ``dim_out`` follows
        from the readout's weights, and the vocabularies come with them. But nothing is ever unpickled.
        A checkpoint of torch_brain's ``CalciumPOYOPlus`` gives the ``CalciumPOYO`` that decodes the same.

        Raises:
            CheckpointError: If the file is missing, damaged, unsafe, or of another model.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        try:
            state, arguments = model_state(checkpoint), model_arguments(checkpoint)
            if is_calcium_poyo_plus(state):
                arguments, state = arguments_of(state, arguments), as_calcium_poyo(state)
            arguments["dim_out"] = _outputs(state) or arguments["dim_out"]
            model = cls(**arguments)
            model.load_state_dict(state)
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint_path}: not a checkpoint of {cls.__name__} ({first_line(error)})"
            ) from error
        model.record = checkpoint["hyper_parameters"]
        return model

    @classmethod
    def from_pretrained(cls: type[_Model], path_or_hub_id: str | Path, *, revision: str | None = None) -> _Model:
        """Load a model from a folder of :meth:`save_pretrained`, a checkpoint, or the Hugging Face Hub.

        Args:
            path_or_hub_id: A folder or file; or, if there is none of that name, ``"owner/name"`` on the Hub.
            revision: Branch, tag or commit on the Hub.

        Raises:
            CheckpointError: If there is no such model, or it is damaged or of another class.

        Example:
            >>> import tempfile
            >>> from poyo_ssl_plugin import CalciumPOYO
            >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1)
            >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
            >>> folder = model.save_pretrained(tempfile.mkdtemp())
            >>> CalciumPOYO.from_pretrained(folder).unit_emb.vocab == model.unit_emb.vocab
            True
        """
        path = Path(path_or_hub_id)
        if path.is_dir():
            return cls.load_pretrained(path / WEIGHTS)
        if path.exists() or not _HUB_ID.fullmatch(str(path_or_hub_id)):
            return cls.load_pretrained(path)
        return cls.load_pretrained(Path(_downloaded(str(path_or_hub_id), revision)) / WEIGHTS)

    def save_pretrained(self, folder: str | Path, *, scores: Mapping[str, float] | None = None) -> Path:
        """Write weights, arguments and a model card to a folder, which :meth:`from_pretrained` reads.

        Args:
            folder: Where to write; files of an earlier call are replaced.
            scores: Name to value of what the model was measured to do, for the card.

        Returns:
            The folder.

        Raises:
            CheckpointError: If the vocabularies are not set.
        """
        folder = Path(folder)
        if getattr(self.unit_emb, "is_lazy", bool)():
            raise CheckpointError("the model has no vocabulary yet: call model.init_vocabs(dataset) before saving it")
        folder.mkdir(parents=True, exist_ok=True)
        record = {**self.record, "model": self.arguments}
        write_safetensors({"state_dict": self.state_dict(), "hyper_parameters": record}, folder / WEIGHTS)
        config = json.dumps({"model_type": "calcium_poyo", **self.arguments}, indent=2)
        for name, text in {CONFIG: config, CARD: model_card(self, record, scores or {})}.items():
            with atomic_path(folder / name) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        scores: Mapping[str, float] | None = None,
        private: bool = False,
        message: str = "Upload a model of poyo_ssl_plugin",
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hugging Face Hub; log in by ``hf auth login`` first.

        Args:
            repo_id: ``"owner/name"``; made where it does not exist.
            scores: As :meth:`save_pretrained`.
            private: Whether a new repository is private.
            message: Message of the commit.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: If the upload fails.
        """
        import tempfile

        hub = _hub()
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, scores=scores)
            try:
                api = hub.HfApi()
                api.create_repo(repo_id, private=private, exist_ok=True)
                return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message))
            except _HUB_ERRORS as error:
                raise CheckpointError(f"{repo_id}: cannot be uploaded ({first_line(error)})") from error


# What huggingface_hub raises: of the network, of its arguments, of its cache.
_HUB_ERRORS = (OSError, ValueError, RuntimeError)


def _downloaded(repo_id: str, revision: str | None) -> str:
    """The folder of a model of the Hub, in the local cache."""
    hub = _hub()
    try:
        return hub.snapshot_download(repo_id, revision=revision, allow_patterns=[WEIGHTS, CONFIG, CARD])
    except _HUB_ERRORS as error:
        raise CheckpointError(
            f"{repo_id}: no such file or folder, and the Hugging Face Hub does not give it ({first_line(error)})"
        ) from error


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(
            "models of the Hugging Face Hub need huggingface_hub: pip install 'poyo-ssl-plugin[hub]'"
        ) from None
    return huggingface_hub


def _outputs(state: State) -> int | None:
    """``dim_out`` of the model that a state is of, if it is a number."""
    return len(state["readout.weight"]) if "readout.weight" in state else None
