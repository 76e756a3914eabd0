"""What is read, written and printed, and nothing about models: the floor of the house.

Text of others is read (``rows``: JSONL, JSON, CSV, TSV or a dataset of the hub; ``json``, ``yaml`` with line numbers;
``templates`` that somebody else has written; ``paths`` as users write them) and made harmless before it goes out
(``harmless``, a function for each kind of output; ``terminal``, the one way to a person's screen). ``store``: our
own files, in one form of JSON, written whole or not at all; ``digests`` of files; ``owned``: which of them are provably
ours, so that no others are replaced. ``wording``: numbers with their nouns. ``cache_folders``: where libraries may keep
their caches; ``published_counts``: token counts that others publish, by name.
"""
