"""What is written to the disk, and how it is read again.

``folder``: a run's folder, ``reports/NAME-HASH``, from its unfinished parts to its completion mark, written last;
what it holds is typed; ``arrays`` are its arrays on the disk. ``record``: its ``result.json``, with its ``measures``;
``migrations`` lift older ones to today's schema. ``provenance``: when, where and with which versions. ``beside``:
rows of its tables, labels of its arrays, unfinished parts; ``under_way``: how far a run is; ``prepared``: prompts, also
where they are kept between runs. ``on_disk`` is what these models share, ``schema`` tells them as JSON Schema.

``leaderboard``: one row a run and measure, appended under a lock; ``leaderboard_query`` filters it, ``findings`` judges
all its runs together. ``trend``: slopes over runs that differ in a number. ``compare`` sets runs side by side, prompts
paired by ``pairing``; ``comparison`` is what it finds.

``arena``: a row a selector, model and task, from anywhere.

``claims``: what became of papers' claims; ``judging`` holds them against runs, ``recounting`` against the published
numbers alone.
"""
