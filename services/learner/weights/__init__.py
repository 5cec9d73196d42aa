"""The sending end of the weight channel: the policy in buckets, to every generator, each version.

The path of a version, from the step that made it to the prompts that wait for it:

1. loop.py, `LearnerLoop._train`: the step is done; `_publish` begins;
2. publisher.py, `Publisher.begin`: each member gets the command UpdateWeights (dapo/bus/parts/weights.py);
3. services/generator/weights/receiver.py, `Receiver._update`: SGLang is paused, the reply is `ready`;
4. buckets.py, `WeightBuckets.flattened`, and `Publisher.feed`: bucket after bucket to each member's queue;
5. channel.py, `Channel._send`, by `WeightGroup.broadcast` (transport.py), met by `receive_bucket` of
   services/generator/engine/client.py, `EngineClient`;
6. `Receiver._update` again: the KV cache is flushed with the last bucket, SGLang goes on, the reply is `done`;
7. `Publisher.finish`: the version is published;
8. services/orchestrator/control/inbox.py and controller.py, `Controller._publish`: prompts are issued at this version.

A member that dies or fails is given up by its Channel, alone, and left out for a while by the Quarantine.
"""
