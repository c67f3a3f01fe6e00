"""Conditioning: what the video is about."""

from tethercache.conditioning.prefix import encode_frames, prefix_frames
from tethercache.conditioning.text import (
    check_tokenizer,
    clean,
    cut_off,
    encode_prompts,
    known_words,
    warn_of_unread,
)

__all__ = [
    "check_tokenizer",
    "clean",
    "cut_off",
    "encode_frames",
    "encode_prompts",
    "known_words",
    "prefix_frames",
    "warn_of_unread",
]
