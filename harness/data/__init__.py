"""What prompts are made of.

``facts``: subjects, relations and answers; ``fact_table`` reads the bundled table or anybody's, ``relations`` what its
relations are, ``named_tables`` published ones; ``limits`` takes some of it. ``texts``: corpora as files or hub
datasets; ``token_sequences`` cuts them into tokens of one length. ``token_counts``: how often each token occurs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
