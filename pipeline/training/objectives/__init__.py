"""What one step of further objectives computes, and how they are judged; one file each.

contrast.py  What one step of a contrastive pre-training computes, and its metrics.
"""
