-- An agent takes no order any more. The worker that it had, if it is still its own, is said to be gone; so is one that it
-- was given and has not seen yet. KEYS[1]: of the run whose worker it has.
-- ARGV: its id; the worker and number of the order that it has ("": none); why.
local key, runs, worker, number = agent_key(ARGV[1]), prefix, ARGV[2], ARGV[3]
local unseen = redis.call("HMGET", key, "order", "number", "run")
if worker == "" and unseen[1] then
  runs, worker, number = unseen[3], cjson.decode(cjson.decode(unseen[1]).told).worker_id, unseen[2]
end
redis.call("DEL", key)
redis.call("SREM", AGENTS, ARGV[1])
local stored = worker ~= "" and redis.call("HGET", runs .. "placements", worker)
local placement = stored and cjson.decode(stored)
if placement and placement.agent == ARGV[1] and placement.number == number and not placement.gone then
  placement.gone = ARGV[4]
  redis.call("HSET", runs .. "placements", worker, cjson.encode(placement))
end
