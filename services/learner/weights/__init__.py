"""The sending end of the weight channel: the policy in buckets, to every generator, each version.

The path of a version, from the step that made it to the prompts that wait for it:

1. loop.py, `LearnerLoop._train`: the step is done; `_publish` begins, on every rank by its Distribution;
2. publisher.py, `Publisher.begin`, on rank 0: each rank that sends is told whom to bring to the version, over the bus
   (orders.py); `Sender.begin`: each member gets the command UpdateWeights (dapo/bus/parts/weights.py);
3. services/generator/weights/receiver.py, `Receiver._update`: SGLang is paused, the reply is `ready`;
4. distribution.py and sender.py: buckets to each member's queue, at its own pace by `WeightBuckets.make` and
   `Round.draw`, or under ZeRO 3 one after the other by `WeightBuckets.gathered` and `Round.feed`;
5. channel.py, `Channel._send`, by `WeightGroup.broadcast` (transport.py), met by `receive_bucket` of
   services/generator/engine/client.py, `EngineClient`;
6. `Receiver._update` again: the KV cache is flushed with the last bucket, SGLang goes on, the reply is `done`;
7. `Publisher.finish`: all ranks have reported, the version is published;
8. services/orchestrator/control/inbox.py and controller.py, `Controller._publish`: prompts are issued at this version.

A member that dies or fails is given up alone, and left out for a while by the Quarantine.
"""
