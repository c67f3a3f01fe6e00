"""TetherCache in ComfyUI: see README.md beside this file."""

from .generate import TetherCacheGenerate
from .policy import TetherCachePolicy
from .tiny import TetherCacheTiny

NODE_CLASS_MAPPINGS = {
    "TetherCacheGenerate": TetherCacheGenerate,
    "TetherCachePolicy": TetherCachePolicy,
    "TetherCacheTiny": TetherCacheTiny,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "TetherCacheGenerate": "TetherCache generate",
    "TetherCachePolicy": "TetherCache policy",
    "TetherCacheTiny": "TetherCache tiny model",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
