"""A place to look: the reports of a folder in a browser, from a small server on this machine or as a static site.

A folder of results comes in, pages go out; nothing is written to the folder. ``runs``: which runs are there, read when
they are asked for and again only where something changed; ``listing``: the page that lists them; ``under_way``: how far
those are that are not finished; ``side_by_side``: the page that sets some beside each other; ``about``: pages about the
folder as a whole. ``policies``: what a page may load and run. ``site``: which address has which page or file, and which
has none; ``server`` says it over HTTP, to whoever may ask, and ``bundle`` writes it to a folder.
"""
