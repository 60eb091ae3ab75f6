"""How good masks and networks are: COCO metrics, mask quality, tables, overlays and reports."""
