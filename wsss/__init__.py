"""From image-level labels to pixel labels: AffinityNet (Ahn & Kwak, CVPR 2018), the whole chain."""

__version__ = "0.1.0"

__all__ = ["__version__", "synthesize"]


def __getattr__(name):
    # torch takes seconds to import, and `wsss --help` needs none of it
    if name == "synthesize":
        from wsss.synthesis import synthesize

        return synthesize
    raise AttributeError(f"module 'wsss' has no attribute {name!r}")
