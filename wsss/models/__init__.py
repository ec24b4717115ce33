"""Networks: built (``build_cam``, ``build_affinity``, ``build_segmentation``), kept, opened."""

from wsss.models.backbones.catalogue import BACKBONES
from wsss.models.build import build_affinity, build_cam, build_segmentation
from wsss.models.heads import DecoderNetwork, RandomWalkSegmenter, favour_rare, log_shares
from wsss.models.saved import Trained, add_walk, open_network, save_network
from wsss.models.state_dicts import expect_file, fit_state, load_into, load_state, save_state
