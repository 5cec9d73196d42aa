-- An agent has no process of an order any more, and is free for the next one.
-- ARGV: its id, the number of the order.
local key = agent_key(ARGV[1])
if redis.call("HGET", key, "number") == ARGV[2] then
  redis.call("HDEL", key, "order", "number", "run", "stop", "report", "log")
end
