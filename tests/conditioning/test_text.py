"""What a model does not read of a prompt."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizer

from tethercache.conditioning import cut_off
from tethercache.models import SHIPPED

WORDS = ("a", "red", "ball", "rolling", "over", "grass")


class Words(PreTrainedTokenizer):
    """A tokenizer in Python, which does not say where in the text its tokens are."""

    vocab_size = len(WORDS) + 3

    def get_vocab(self) -> dict[str, int]:
        return {word: i for i, word in enumerate((*WORDS, "<pad>", "</s>", "<unk>"))}

    def _tokenize(self, text: str) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        return self.get_vocab().get(token, self.vocab_size - 1)

    def _convert_id_to_token(self, index: int) -> str:
        return list(self.get_vocab())[index]


def tokenizer(kind: str) -> object:
    if kind == "shipped":
        return AutoTokenizer.from_pretrained(SHIPPED["tiny"] / "tokenizer")
    return Words(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("kind", ["shipped", "python"])
@pytest.mark.parametrize("length", [2, 5, 6, 7, 8, 40])
def test_what_is_read_and_what_is_not_are_the_prompt(kind: str, length: int) -> None:
    words = tokenizer(kind)
    prompt = "a red ball rolling over grass"
    unread = cut_off(words, prompt, length=length)
    assert prompt.endswith(unread)
    read = prompt[: len(prompt) - len(unread)]
    kept = words(prompt, truncation=True, max_length=length)["input_ids"]
    assert words(read)["input_ids"] == kept
    assert cut_off(words, read, length=length) == ""


def test_unknown_words_are_named_as_they_are_written() -> None:
    assert cut_off(tokenizer("shipped"), "a red ball, zebras  over Lava!", length=5) == (
        "zebras over Lava!"
    )
