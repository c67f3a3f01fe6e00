"""Conditioning: what the video is about."""

from tethercache.conditioning.prefix import encode_frames, prefix_frames
from tethercache.conditioning.text import clean, encode_prompts, unknown_words

__all__ = ["clean", "encode_frames", "encode_prompts", "prefix_frames", "unknown_words"]
