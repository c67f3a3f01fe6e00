"""Prompt in, text embeddings out, the way Wan expects them."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ftfy
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from tethercache.alignment import align
from tethercache.arguments import whole_number
from tethercache.foreign import reading

logger = logging.getLogger(__name__)


def clean(prompt: str) -> str:
    """Repair the text's encoding, undo HTML escapes and collapse white space."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text).strip()


def unknown_words(tokenizer: Any, prompt: str) -> list[str]:
    """The words of a prompt that the tokenizer cannot represent, in order, once each."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return []
    words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*", clean(prompt))
    missing = (
        word for word in words if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]
    )
    return list(dict.fromkeys(missing))


def warn_of_unread(tokenizer: Any, prompts: Iterable[str], *, length: int) -> None:
    """Say which words a model does not know, and what a prompt has beyond its length."""
    for prompt in dict.fromkeys(prompts):
        if missing := unknown_words(tokenizer, prompt):
            logger.warning("the model does not know the words: %s", ", ".join(missing))
        if unread := cut_off(tokenizer, prompt, length=length):
            logger.warning("the model reads %d tokens of a prompt, not: %s", length, unread)


def cut_off(tokenizer: Any, prompt: str, *, length: int) -> str:
    """The end of a prompt that `encode_prompts` leaves out; empty if it takes all.

    Args:
        tokenizer: a transformers tokenizer.
        prompt: the text.
        length: tokens that the model reads, special ones included.
    """
    text = clean(prompt)
    whole = tokenizer(text, verbose=False)["input_ids"]
    if len(whole) <= length:
        return ""
    read = tokenizer(
        text,
        truncation=True,
        max_length=length,
        return_special_tokens_mask=True,
        return_offsets_mapping=tokenizer.is_fast,
    )
    words = [i for i, special in enumerate(read["special_tokens_mask"]) if not special]
    if tokenizer.is_fast:
        end = max((read["offset_mapping"][i][1] for i in words), default=0)
        return text[end:].strip()
    plain = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    left: str = tokenizer.decode(plain[len(words) :])
    return left.strip()


def check_tokenizer(tokenizer: Any, length: int, vocabulary: int, where: object) -> None:
    """Tokenise a word as prompts will be, and see that the text encoder knows all tokens.

    Args:
        tokenizer: a transformers tokenizer.
        length: tokens that the model reads.
        vocabulary: how many tokens the text encoder knows.
        where: it comes from, for the message.

    Raises:
        DamagedModelError: if that fails.
    """
    with reading(f"the tokenizer of {where}"):
        unknown_words(tokenizer, "a")
        _tokens(tokenizer, ["a"], length)
        highest = max(tokenizer.get_vocab().values(), default=0)
        whole_number("its highest token", highest, 0, vocabulary - 1)


def known_words(file: Path) -> list[str]:
    """All words of a vocabulary of whole words (a `tokenizer.json`), sorted.

    Empty for a tokenizer that builds any word of pieces.
    """
    tokenizer = Tokenizer.from_file(str(file))
    if not isinstance(tokenizer.model, WordLevel):
        return []
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    return sorted(word for word in tokenizer.get_vocab() if word not in special and word.isalnum())


def encode_prompts(
    tokenizer: Any, text_encoder: Any, prompts: Sequence[str], *, length: int
) -> Tensor:
    """Encode prompts to embeddings of one fixed length.

    Rows behind a prompt's last token are zero; Wan attends to them without a mask
    (`docs/reference.md`, sections 1.3 and 6).

    Args:
        tokenizer: a transformers tokenizer.
        text_encoder: a T5-type encoder of transformers.
        prompts: one prompt a sample.
        length: tokens of the result; longer prompts are cut, see `cut_off`.

    Returns:
        Embeddings `[B, length, C_text]` in the encoder's dtype, on the device where it computes.
    """
    align(text_encoder)
    tokens = _tokens(tokenizer, prompts, length).to(text_encoder.device)
    with torch.no_grad():
        states: Tensor = text_encoder(tokens["input_ids"], tokens["attention_mask"])[0]
    mask: Tensor = tokens["attention_mask"]
    return states * mask[..., None].to(states)  # an offloaded encoder answers from its device


def _tokens(tokenizer: Any, prompts: Sequence[str], length: int) -> Any:
    """The tokens of prompts, filled up or cut to `length`, and their masks."""
    return tokenizer(
        [clean(prompt) for prompt in prompts],
        padding="max_length",
        max_length=length,
        truncation=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
