"""Conditioning: what the video is about."""

from tethercache.conditioning.text import clean, encode_prompts, unknown_words

__all__ = ["clean", "encode_prompts", "unknown_words"]
