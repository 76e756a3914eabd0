"""What prompts are made of.

``facts``: tables of subjects, relations and answers. ``texts``: corpora as files or hub datasets; ``sequences`` cuts
them into tokens of one length. ``token_counts``: how often each token occurs.
"""
