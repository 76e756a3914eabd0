"""The harness for users of inspect_ai: a model under an intervention, ``--model harness/NAME``.

``provider``: what inspect finds by its entry point; ``model``: its answers, which ``decoding`` makes token by token.
Needs the extra ``inspect``; nothing else of the harness imports this room.
"""
