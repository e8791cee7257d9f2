"""Decoders that turn the fields into tokens and stack equal layers over these; made to grow.

rankmixer.py  RankMixer: tokens that exchange slices of themselves, without weights, and a network of its own for each.
wukong.py     WuKong: layers of factorisation machines and of linear maps over tokens.
"""
