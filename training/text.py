"""The text side: a word tokenizer and a small T5 encoder, both transformers classes.

As in Wan, a prompt becomes a fixed number of rows and the rows after its end are zero; there is no
text mask in the transformer.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from tethercache.evaluation import world

MAX_LENGTH = 40


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-case words and punctuation; the vocabulary is the world's, plus pad, eos and unk."""
    words = ["<pad>", "</s>", "<unk>", ".", ",", *world.vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_LENGTH,
    )


def build_text_encoder(vocab_size: int, d_model: int, num_layers: int) -> T5EncoderModel:
    """A T5 encoder of the given width with heads of 24 channels."""
    config = T5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=24,
        d_ff=2 * d_model,
        num_heads=d_model // 24,
        num_layers=num_layers,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return T5EncoderModel(config)


def encode_prompts(
    tokenizer: PreTrainedTokenizerFast, encoder: T5EncoderModel, prompts: list[str]
) -> torch.Tensor:
    """Prompts to embeddings `[B, MAX_LENGTH, d_model]`, zero after each prompt's end."""
    batch = tokenizer(
        prompts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
    ).to(encoder.device)
    rows = encoder(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    return rows * batch.attention_mask[..., None]
