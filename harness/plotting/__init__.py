"""Shapes, sizes and bins of figures, for plugins and reports (``shapes``), and where their labels go
(``label_placement``)."""
