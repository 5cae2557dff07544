"""The contract as JSON for the page's sources: `python -m sam_edge.web.contract > web/src/contract.json`.

A test compares the two, so that no code or name is typed twice.
"""

from __future__ import annotations

import json
from typing import Any

from sam_edge import contract, golden_vectors, image, manifest

__all__ = ["page_contract"]


def page_contract() -> dict[str, Any]:
    """What the page's code shares with Python."""
    return {
        "schema": manifest.SCHEMA,
        "preprocessing": manifest.PREPROCESSING,
        "labels": {
            "foreground": contract.LABEL_FOREGROUND,
            "background": contract.LABEL_BACKGROUND,
            "boxTopLeft": contract.LABEL_BOX_TOP_LEFT,
            "boxBottomRight": contract.LABEL_BOX_BOTTOM_RIGHT,
            "padding": contract.LABEL_PADDING,
            "empty": contract.LABEL_EMPTY,
        },
        "embeddingStride": contract.EMBEDDING_STRIDE,
        "maskStride": contract.MASK_STRIDE,
        "highResStrides": list(contract.HIGH_RES_STRIDES),
        "numMasks": contract.NUM_MASKS,
        "maskThreshold": contract.MASK_THRESHOLD,
        "image": contract.IMAGE,
        "embeddings": [contract.IMAGE_EMBEDDINGS, *contract.HIGH_RES_FEATURES],
        "promptInputs": list(contract.PROMPT_INPUTS),
        "predictionOutputs": list(contract.PREDICTION_OUTPUTS),
        "sizes": {"prompts": manifest.PROMPTS, "points": manifest.POINTS},
        "golden": {
            "numValues": golden_vectors.NUM_VALUES,
            "valueStep": golden_vectors.VALUE_STEP,
            "logitStep": golden_vectors.LOGIT_STEP,
            "minChange": golden_vectors.MIN_CHANGE,
            "maxUnpackedBytes": golden_vectors.MAX_UNPACKED_BYTES,
        },
        "maxPixels": image.MAX_PIXELS,
        "maxPhotoBytes": image.MAX_BYTES,
    }


if __name__ == "__main__":
    print(json.dumps(page_contract(), indent=2))
