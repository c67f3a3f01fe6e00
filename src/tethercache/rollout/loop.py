"""The chunk loop: noise in, clean latent chunks out, one at a time, for as long as the plan says.

Axes: latents `[B, C, F, h, w]`. No tensor here depends on the length of the video.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tethercache.alignment import aligned
from tethercache.arguments import float_tensor, one_of, whole_number
from tethercache.cache import Cut, Forget, Pin, Switch
from tethercache.errors import NotFiniteError
from tethercache.rollout.actions import HOWS, Action, Actions, in_force
from tethercache.rollout.noise import NoiseSource
from tethercache.rollout.plan import Chunk, Plan
from tethercache.rollout.recache import Latents, pin_again, remembered
from tethercache.rollout.sampler import Steps, denoise
from tethercache.session import Session
from tethercache.state import State, check_fits

STATE_VERSION = 2


class Rollout(Iterator[Tensor]):
    """The latents of one batch of videos in the making: `next` makes one more chunk.

    Every chunk takes a denoising pass for each of its steps and one context pass, which is told the
    timestep `context_noise` and sees clean latents. Chunks of the prefix take one at timestep 0.
    The model is attached to while a chunk is made, and free in between: any number of rollouts take
    turns on one model.

    Args:
        transformer: the model of which `session` is a session.
        session: decides, by its policy, what the model remembers.
        plan: the chunks.
        steps: the noise levels of the few-step sampler.
        first_steps: those of the first chunk that is made, None for `steps`.
        noise: where noise comes from. It may be replaced between two chunks.
        prompt_embeds: text embeddings `[B, L_text, C_text]`.
        latent_size: height and width of a latent frame.
        context_noise: timestep that the context pass is told, 0..1000.
        prefix: clean latents `[B, C, plan.prefix, h, w]` to start from.
        actions: what changes over time, by the number of the chunk before which it does.
        on_step_end: is told, after each denoising step, of this rollout, the step in the chunk, its
            timestep and its latents, and returns those to go on with; see `denoise`.

    Attributes:
        chunks_made: how many chunks are made, those of the prefix included.

    Raises:
        ValueError: if the prefix is not that of the plan, or not finite.
    """

    def __init__(
        self,
        transformer: Any,
        session: Session,
        plan: Plan,
        steps: Steps,
        noise: NoiseSource,
        prompt_embeds: Tensor,
        *,
        latent_size: tuple[int, int],
        first_steps: Steps | None = None,
        context_noise: float = 0.0,
        prefix: Tensor | None = None,
        actions: Actions | None = None,
        on_step_end: Callable[[Rollout, int, float, Tensor], Tensor] | None = None,
    ) -> None:
        if plan.prefix != (0 if prefix is None else prefix.shape[2]):
            raise ValueError(
                f"the plan has a prefix of {plan.prefix} latent frames, not the one given"
            )
        dtype = prompt_embeds.dtype
        if prefix is not None and not prefix.to(dtype).isfinite().all():
            raise ValueError(f"`prefix` must be finite in {dtype}, but holds NaN or infinity")
        self.session = session
        self.plan = plan
        self.steps = steps
        self._first_steps = steps if first_steps is None else first_steps
        self.noise = noise
        self.chunks_made = 0
        self._transformer = transformer
        self._prompt = aligned(prompt_embeds)
        self._latent_size = latent_size
        self._context_noise = context_noise
        self._prefix = None if prefix is None else aligned(prefix)
        self._actions = actions or {}
        self._on_step_end = on_step_end
        self._added: tuple[tuple[int, Action], ...] = ()
        self._latents = Latents()
        # what was in force before any action, where there are some
        every = [action for some in self._actions.values() for action in some]
        self._first_noise = noise if any(action.noise for action in every) else None
        self._first_policy = session.policy if any(action.policy for action in every) else None

    @property
    def prompt_embeds(self) -> Tensor:
        """Text embeddings of the next chunk `[B, L_text, C_text]`."""
        return self._prompt

    @property
    def latent_frames_made(self) -> int:
        """Latent frames of all chunks so far."""
        if not self.chunks_made:
            return 0
        last = self.plan[self.chunks_made - 1]
        return last.start + last.frames

    def __next__(self) -> Tensor:
        """Clean latents `[B, C, F, h, w]` of the next chunk, be it generated or of the prefix.

        Raises:
            StopIteration: if all chunks of the plan are made.
            NotFiniteError: if the transformer makes NaN or infinity.
            SessionError: if a chunk before has failed.
        """
        if self.chunks_made >= self.plan.num_chunks:
            raise StopIteration
        chunk = self.plan[self.chunks_made]
        with torch.no_grad(), self.session.attached():
            for action in self._actions.get(self.chunks_made, ()):
                self._apply(action)
            latents = self._clean(chunk) if chunk.generated is None else self._generated(chunk)
        self.chunks_made += 1
        self._latents.add(chunk.start, latents)
        self._latents.prune(self.session)
        return latents

    def rest(self) -> Generator[Tensor, None, None]:
        """The chunks that are left; the model stays attached to, because to come and go takes time.

        Yields:
            Clean latents `[B, C, F, h, w]`.
        """
        with self.session.attached():
            yield from self

    def switch(self, prompt_embeds: Tensor, how: str = "soft") -> None:
        """Let another prompt hold from the next chunk on. The policy is told.

        Args:
            prompt_embeds: text embeddings `[B, L_text, C_text]`.
            how: `soft`: what the model remembers of the video stays as it is; `recache`: it is read
                again under the new prompt; `cut`: the sink and the newest frames stay, and the next
                chunk stands far from them, as a new shot.

        Raises:
            ValueError: naming what is wrong.
            SessionError: if a chunk is in the making, or one has failed.
        """
        batch, _, channels = self._prompt.shape
        float_tensor("prompt_embeds", prompt_embeds, (batch, "L", channels))
        one_of("how", how, HOWS)
        if self.chunks_made:
            self.session.on(Switch())
        self._prompt = aligned(prompt_embeds.to(self._prompt))
        if self.chunks_made and how == "cut":
            self.session.on(Cut())
        elif self.chunks_made and how == "recache":
            self._read_again()

    def pin(self, start: int, stop: int) -> None:
        """Keep the latent frames `start..stop-1` in memory, as far as they are there.

        They leave only where a policy has room for nothing else, and at a cut.

        Raises:
            ValueError: if they are not made yet.
            SessionError: if a chunk is in the making, or one has failed.
        """
        self.session.on(Pin(*self._span(start, stop)))

    def forget(self, start: int, stop: int) -> None:
        """Let no pass see the latent frames `start..stop-1` again.

        Raises:
            ValueError: if they are not made yet.
            SessionError: if a chunk is in the making, or one has failed.
        """
        self.session.on(Forget(*self._span(start, stop)))

    def act(self, chunk: int, action: Action) -> None:
        """Let an action take effect before a chunk that is not made yet; states know of it then.

        Raises:
            ValueError: the chunk is made already.
        """
        whole_number("chunk", chunk, self.chunks_made)
        if action.noise is not None and self._first_noise is None:
            self._first_noise = self.noise
        if action.policy is not None and self._first_policy is None:
            self._first_policy = self.session.policy
        self._added = (*self._added, (chunk, action))
        self._actions = {**self._actions, chunk: (*self._actions.get(chunk, ()), action)}

    def withdraw(self, chunk: int) -> None:
        """Take back what `act` has added for this chunk and later ones."""
        for number, action in self._added:
            if number >= chunk:
                left = tuple(other for other in self._actions[number] if other is not action)
                self._actions = {**self._actions, number: left}
        self._added = tuple((number, action) for number, action in self._added if number < chunk)

    def fork(self) -> Rollout:
        """Another rollout that goes on from here: the same chunks, bit for bit, if left alone.

        The two share nothing that changes, so a prompt, noise or plan of its own makes it another
        video.

        Raises:
            SessionError: if a chunk is in the making, or one has failed.
        """
        other = copy.copy(self)
        other.session = self.session.fork()
        other._latents = self._latents.copy()
        return other

    def state_dict(self) -> State:
        """All that the coming chunks depend on, but for what the rollout was made with.

        See `tethercache.state`.

        Raises:
            SessionError: if a chunk is in the making, or one has failed.
        """
        return {
            "made_for": self._made_for(),
            "chunks_made": self.chunks_made,
            "prompt_embeds": self._prompt.detach().cpu(),
            "latents": self._latents.state_dict(),
            "session": self.session.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another rollout of the same request was; forget what is here.

        This one may have other noise, and a longer or shorter plan of the same chunks. Its own
        actions hold: noise and policy become those in force where the state was saved.

        Args:
            state: what `state_dict` returned. Its tensors are copied.

        Raises:
            ValueError: naming what differs; nothing has changed then.
            SessionError: if a chunk is in the making.
        """
        check_fits("rollout", state, self._made_for())
        if state["chunks_made"] > self.plan.num_chunks:
            raise ValueError(
                f"the state is of a rollout with {state['chunks_made']} chunks made, but this one "
                f"has {self.plan.num_chunks}"
            )
        prompt = state["prompt_embeds"]
        float_tensor("prompt_embeds", prompt, (self._prompt.shape[0], "L", self._prompt.shape[2]))
        self._load_session(state)
        self._prompt = aligned(prompt.to(self._prompt, copy=True))
        self._latents.load_state_dict(state["latents"])
        self.chunks_made = state["chunks_made"]
        if self._first_noise is not None:
            self.noise = in_force(self._actions, "noise", self.chunks_made) or self._first_noise

    def _load_session(self, state: Mapping[str, Any]) -> None:
        """Load the session's part under the policy that is in force there."""
        before = self.session.policy
        if self._first_policy is not None:
            policy = in_force(self._actions, "policy", state["chunks_made"])
            self.session.policy = policy or self._first_policy
        try:
            self.session.load_state_dict(state["session"], self._prompt.device)
        except BaseException:
            self.session.policy = before
            raise

    def _made_for(self) -> State:
        plan = self.plan
        return {
            "version": STATE_VERSION,
            "latents": [len(self._prompt), self._channels, *self._latent_size],
            "dtype": str(self._prompt.dtype).removeprefix("torch."),
            "chunk_size": plan.chunk_size,
            "first_chunk_size": plan.first_chunk_size or plan.chunk_size,
            "prefix": plan.prefix,
        }

    def _apply(self, action: Action) -> None:
        """Let what an action changes hold from the next chunk on."""
        if action.policy is not None:
            action.policy.check_follows(self.session.policy, self.plan.chunk_size)
            self.session.policy = action.policy
        if action.noise is not None:
            self.noise = action.noise
        if action.forget is not None:
            self.forget(*action.forget)
        if action.pin is not None:
            self.pin(*action.pin)
        if action.prompt_embeds is not None:
            self.switch(action.prompt_embeds, action.how)

    def _span(self, start: int, stop: int) -> tuple[int, int]:
        """Latent frames that are made, `start..stop-1`."""
        made = self.latent_frames_made
        stop = whole_number("stop", stop, 1, made)
        return whole_number("start", start, 0, stop - 1), stop

    def _read_again(self) -> None:
        """Forget what is remembered, and read the same frames again under the prompt of now."""
        index, pinned = remembered(self.session.caches())
        index = index.to(self._prompt.device)
        frames, size = index.shape[1], self.plan.chunk_size
        if not frames:  # all of them are forgotten
            return
        first = min(self.plan.first_chunk_size or size, frames)
        with torch.no_grad(), self.session.attached():
            for start in (0, *range(first, frames, size)):
                part = index[:, start : start + size if start else first]
                with self.session.replay_pass(part, anew=not start):
                    self._call(self._latents.of(part).to(self._prompt), self._context_noise)
        pin_again(self.session.caches(), pinned)

    @property
    def _channels(self) -> int:
        channels: int = self._transformer.config.in_channels
        return channels

    def _clean(self, chunk: Chunk) -> Tensor:
        """A chunk of the prefix, which the model reads."""
        assert self._prefix is not None
        latents = self._prefix[:, :, chunk.start : chunk.start + chunk.frames].to(self._prompt)
        with self.session.chunk(chunk.frames), self.session.context_pass(output=False):
            self._call(latents, 0.0)
        return latents

    def _generated(self, chunk: Chunk) -> Tensor:
        """A chunk made of noise."""
        shape, flows = (self._channels, chunk.frames, *self._latent_size), []
        number = chunk.generated
        assert number is not None

        def draw(i: int) -> Tensor:
            return self.noise(number, i, shape).to(self._prompt)

        def predict_flow(latents: Tensor, timestep: float) -> Tensor:
            with self.session.denoising_pass():
                flows.append(self._call(latents, timestep))
            return flows[-1]

        def step_ended(step: int, timestep: float, latents: Tensor) -> Tensor:
            assert self._on_step_end is not None
            return self._on_step_end(self, step, timestep, latents)

        told = None if self._on_step_end is None else step_ended
        steps = self.steps if number else self._first_steps
        with self.session.chunk(chunk.frames, len(steps)):
            latents = denoise(predict_flow, draw, steps, told)
            finite = latents.isfinite().all()
            with self.session.context_pass(output=False):
                self._call(latents, self._context_noise)
        if not finite:  # asked last, so that a device has the context pass to do meanwhile
            raise _not_finite(self.chunks_made + 1, flows)
        return latents

    def _call(self, latents: Tensor, timestep: float) -> Tensor:
        """Flow that the model predicts."""
        prompt = self._prompt
        told = torch.full((len(prompt),), timestep, device=prompt.device, dtype=torch.float32)
        flow: Tensor = self._transformer(latents, told, prompt, return_dict=False)[0]
        return flow


def _not_finite(chunk: int, flows: list[Tensor]) -> NotFiniteError:
    """Say in which pass of a chunk the numbers went wrong."""
    wrong = next((i for i, flow in enumerate(flows, 1) if not flow.isfinite().all()), len(flows))
    where = f"chunk {chunk}, denoising pass {wrong} of {len(flows)}"
    return NotFiniteError("transformer", where, flows[0].dtype)
