"""The learner and the tools around its models.

The path of a batch: `LearnerLoop._decide` reads it from the log (loop.py); `fetch_samples` gets this rank's payloads
(step/payloads.py); `plan_batch` cuts it into updates, ranks and micro-batches (step/minibatch.py); `Preparation.run`
computes what is needed once (step/preparation.py); `Trainer.train` runs the updates (step/trainer.py) with
`policy_loss` (loss/policy.py) on `LearnerEngine` (step/engine.py); `LearnerLoop._publish` sends the weights (weights)
and `LearnerLoop._record` writes the step's report.

Two messages of libraries that speak of nothing a user can act on are silenced here, before those libraries are
imported: torchvision's about image decoders, which no text model needs, and DeepSpeed's about a host without GPU.
"""

import logging
import warnings

warnings.filterwarnings("ignore", message="Failed to load image Python extension", category=UserWarning)
logging.getLogger("DeepSpeed").addFilter(
    lambda record: not record.getMessage().startswith("Setting accelerator to CPU")
)
