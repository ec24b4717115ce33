"""From image-level labels to pixel labels: AffinityNet (Ahn & Kwak, CVPR 2018), the whole chain."""

__version__ = "0.1.0"
