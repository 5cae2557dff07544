"""GPU kernels, one folder an op: its function, its reference, Triton code, and a README with the maths and the traffic.

`rel_pos_attention` and `window_attention` are SAM's attention, `mask_statistics` everything mode's filter. Each has
`supports`, which says why a kernel does not take some tensors. `paths.py` chooses for a model (extra `gpu`).
"""

from sam_edge.kernels.mask_statistics import MaskStatistics, full_size_masks, mask_statistics
from sam_edge.kernels.paths import choose_global_path, choose_window_path
from sam_edge.kernels.rel_pos_attention import rel_pos_attention
from sam_edge.kernels.rel_pos_attention.reference import rel_pos_attention as rel_pos_attention_reference
from sam_edge.kernels.support import ATTENTION_PATHS, Support, check_path
from sam_edge.kernels.window_attention import window_attention

__all__ = [
    "ATTENTION_PATHS",
    "MaskStatistics",
    "Support",
    "check_path",
    "choose_global_path",
    "choose_window_path",
    "full_size_masks",
    "mask_statistics",
    "rel_pos_attention",
    "rel_pos_attention_reference",
    "window_attention",
]
