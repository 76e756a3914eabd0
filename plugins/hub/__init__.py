"""Finished runs as dataset repositories of the Hugging Face hub: ``harness push RUN --to user/dataset``.

``repository``: the files of one, with ``card``, its README. ``sending``: what is refused before anything is sent, and
the commit. ``command``: the command. Nothing is sent unless this command asks for it, and then to a private repository.
"""
