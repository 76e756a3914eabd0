"""What is written to the disk, and how it is read again.

``folder``: a run's folder, ``reports/NAME-HASH``, from its unfinished parts to its completion mark, written last.
``schema``: what its files hold. ``provenance``: when, where and with which versions. ``leaderboard``: one row a run and
measure, appended under a lock; ``leaderboard_query`` filters it, ``findings`` judges all its runs together. ``compare``
sets runs side by side, prompts paired by ``pairing``.
"""
