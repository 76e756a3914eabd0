from .logit_changes import Kind as Kind
from .sweep import Effects as Effects
from .sweep import effects as effects

__all__ = ["Effects", "Kind", "effects"]
