-- An agent lives for another while, and says what it is and what it does. KEYS[1]: of the run whose worker it has.
-- ARGV: its id, for how many ms, what it is (JSON), the order that it has ("": none), its number, worker, and what there
-- is to be told of it: a report (JSON), the end of its log ("": as before).
-- Returns the order that it is to have ("": none), whether that is to end, and how its run stands: it is led, awaits a
-- leader, or is over.
-- What was known of it may have lapsed. It keeps its worker where nobody has taken that from it meanwhile.
local key, order, number = agent_key(ARGV[1]), ARGV[4], ARGV[5]
if redis.call("EXISTS", key) == 0 and order ~= "" then
  local placement = placement_of(ARGV[6])
  if placement and placement.agent == ARGV[1] and placement.number == number then
    redis.call("HSET", key, "order", order, "number", number, "run", prefix)
  end
end
redis.call("HSET", key, "agent", ARGV[3])
if order ~= "" and redis.call("HGET", key, "number") == number then
  redis.call("HSET", key, "report", ARGV[7])
  if ARGV[8] ~= "" then redis.call("HSET", key, "log", ARGV[8]) end
end
redis.call("SADD", AGENTS, ARGV[1])
redis.call("PEXPIRE", key, ARGV[2])
local known = redis.call("HMGET", key, "order", "number", "stop", "run")
local standing = "led"
if known[4] and redis.call("EXISTS", known[4] .. "lease") == 0 then
  standing = redis.call("HGET", known[4] .. "run", "desired") == "running" and "awaits" or "over"
end
return {known[1] or "", known[2] and known[3] == known[2] and 1 or 0, standing}
