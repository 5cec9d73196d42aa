-- An agent takes no order any more. The worker that it had, if it is still its own, is said to be gone.
-- ARGV: its id; the worker and number of the order that it had ("": none); why.
redis.call("DEL", agent_key(ARGV[1]))
redis.call("SREM", AGENTS, ARGV[1])
local placement = ARGV[2] ~= "" and placement_of(ARGV[2])
if placement and placement.agent == ARGV[1] and placement.number == ARGV[3] then
  placement.gone = ARGV[4]
  redis.call("HSET", prefix .. "placements", ARGV[2], cjson.encode(placement))
end
