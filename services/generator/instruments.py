"""What a generator measures; docs/metrics.md says what each means."""

from dapo.telemetry import instruments

TOKENS = instruments.counter("dapo_generator_tokens_total")
RESPONSES = instruments.counter("dapo_generator_responses_total", "stop", "length", "abort")
REQUESTS_RUNNING = instruments.gauge("dapo_generator_requests_running")
PROMPTS_RUNNING = instruments.gauge("dapo_generator_prompts_running")
PROMPTS_WAITING = instruments.gauge("dapo_generator_prompts_waiting")
BUSY_SECONDS = instruments.counter("dapo_generator_busy_seconds_total")
SERVING = instruments.gauge("dapo_generator_serving")
WEIGHT_VERSION = instruments.gauge("dapo_generator_weight_version")
WEIGHT_UPDATES = instruments.counter("dapo_generator_weight_updates_total", "done", "failed")
WEIGHT_PAUSE_SECONDS = instruments.histogram("dapo_generator_weight_pause_seconds")
ENGINE_RESTARTS = instruments.counter("dapo_generator_engine_restarts_total")
REQUEST_SECONDS = instruments.histogram("dapo_generator_request_seconds")
RESPONSE_TOKENS = instruments.histogram("dapo_generator_response_tokens")
