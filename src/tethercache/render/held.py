"""A model that stays in memory, for the videos of any requests: what a server holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tethercache.fit import Machine, measure
from tethercache.models import Settings
from tethercache.render.loading import Loaded, encode, load, place
from tethercache.render.order import check, prepare
from tethercache.render.prefix import plan_with_prefix
from tethercache.request import VideoRequest
from tethercache.script import texts_of


class Held:
    """A model, its text encoder included, which stays on the CPU.

    Args:
        request: any for this model; device and number formats are those of all that follow.

    Raises:
        NotEnoughMemoryError: if it does not fit; nothing was loaded.
        TetherCacheError: if a file cannot be had or read, or is not what it has to be.
    """

    def __init__(self, request: VideoRequest) -> None:
        self._loaded = load(prepare(check(request)), [], keep=True)
        self._sizes = measure(self._loaded.order.parts)
        _ = self._loaded.fingerprint

    @property
    def settings(self) -> Settings:
        """How the model was trained to be used."""
        return self._loaded.order.parts.settings

    @property
    def device(self) -> str:
        """Where it computes."""
        return self._loaded.order.device

    def take(self, request: VideoRequest) -> Loaded:
        """The model, ready to make the video of a request.

        Raises:
            NotEnoughMemoryError: if there is no memory for what it has to remember.
            ValueError: if something asked for cannot be, or is for another model.
        """
        first = self._loaded
        if request.model != first.order.request.model or request.prefix or request.loras:
            raise ValueError(f"`model` ({request.model}) is not the one that is held")
        checked = check(replace(request, device=self.device))
        plan, _ = plan_with_prefix(request, None, self.settings, checked.policy)
        order = replace(first.order, request=request, policy=checked.policy, plan=plan)
        here = Machine.here(self.device)
        free = None if here.free is None else here.free + self._bytes()
        dtype = first.placement.dtype
        placement, execution = place(order, self._sizes, replace(here, free=free), dtype)
        loaded = replace(
            first,
            order=order,
            placement=replace(placement, text_encoder="cpu"),
            execution=execution,
            prompt_embeds={},
        )
        vars(loaded)["fingerprint"] = first.fingerprint
        self.encode(loaded, [request.prompt, *texts_of(request.then)])
        return loaded

    def encode(self, loaded: Loaded, texts: Iterable[str]) -> None:
        """Encode more prompts for a video, such as one that it shall change to.

        Raises:
            NotFiniteError: if the text encoder makes NaN or infinity.
        """
        new = [text for text in dict.fromkeys(texts) if text not in loaded.prompt_embeds]
        loaded.prompt_embeds.update(encode(loaded.pipe, loaded.text_encoder, new))

    def _bytes(self) -> int:
        """What the model takes of the device's memory already."""
        pipe: Any = self._loaded.pipe
        models = [pipe.transformer, pipe.vae]
        models += [self._loaded.text_encoder] if self.device == "cpu" else []
        return sum(p.numel() * p.element_size() for model in models for p in model.parameters())
