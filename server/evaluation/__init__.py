"""Packed runs turned into figures: metrics per case, uncertainty, statistics, tables, pictures, report.

`evaluate` reads packs and run folders and writes CSV files; `report` reads nothing but those CSV files.
"""
