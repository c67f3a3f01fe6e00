"""Frames as they are made, in constant memory: an endless-enough video, watched while it grows."""

import tethercache as tc

pipe = tc.CausalVideoPipeline.from_pretrained("tiny")
policy = tc.TetherCache(sink=3, memory=14, recent=4, alpha=0.35, tau=0.35)

seen = 0
for frames in pipe.stream("a red ball rolling over grass", num_seconds=8, policy=policy, seed=1):
    seen += frames.shape[1]  # uint8 [B, F, H, W, 3]
    print(
        f"{seen / pipe.config.fps:5.2f} s, mean colour {frames.float().mean((0, 1, 2, 3)).tolist()}"
    )
