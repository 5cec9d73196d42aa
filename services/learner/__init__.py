"""The learner and the tools around its models.

Two messages of libraries that speak of nothing a user can act on are silenced here, before those libraries are
imported: torchvision's about image decoders, which no text model needs, and DeepSpeed's about a host without GPU.
"""

import logging
import warnings

warnings.filterwarnings("ignore", message="Failed to load image Python extension", category=UserWarning)
logging.getLogger("DeepSpeed").addFilter(
    lambda record: not record.getMessage().startswith("Setting accelerator to CPU")
)
