"""Records for people. Everything here is made from finished runs alone, so that it can be made again.

``console``, ``page`` (with ``page_charts``: histograms, ``page_data``, ``page_tables``, ``page_assets``), ``markdown``,
``latex``, ``parquet``: rows for databases; ``summary``: for a notebook; ``certainty``: what a run can find;
``outlook``: what a planned one could; ``table_tests``; ``inspection``: what a model is made of; ``leaderboard``;
``arena``: selectors compared; ``claims``: which claims of papers hold; ``comparison`` and ``comparison_page``;
``sweeps``: curves over runs. ``formatting``: numbers and sentences that all of them share; ``places``: units in columns
of their own. ``figure_files``: figures with their data. ``reporters``: those that are told of runs. ``publishing``:
pages for a folder of the user's choice. ``progress``: how far a run is; ``live``: the same, for ``harness view``.
"""
