"""Reconstruction of movie frames, from the images to the simple decoders that a model has to beat.

``images`` has the images of the movie and which of them are tested, ``decoder`` draws an image from a latent vector,
``losses`` compare two images, ``task`` is what fine-tuning needs to know, and ``simple_decoders``
reconstruct without a network.
"""

from poyo_ssl_plugin.frames.decoder import SkipConnectionDecoder
from poyo_ssl_plugin.frames.images import FRAMES_TASK, MovieFrames, find_frames_file, find_presentations, split_frames
from poyo_ssl_plugin.frames.losses import FrameLoss

__all__ = [
    "FRAMES_TASK",
    "FrameLoss",
    "MovieFrames",
    "SkipConnectionDecoder",
    "find_frames_file",
    "find_presentations",
    "split_frames",
]
