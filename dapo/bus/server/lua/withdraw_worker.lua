-- Has an agent end a worker of the run; with `final` the worker is with nobody from now on, and its process writes no
-- more. ARGV: epoch of the run's workers, worker, number of the order, final (0 or 1).
local refused = fence("workers", ARGV[1])
if refused then return refused end
local placement = placement_of(ARGV[2])
if not placement or placement.number ~= ARGV[3] then return end
local key = agent_key(placement.agent)
if redis.call("HGET", key, "number") == ARGV[3] then
  redis.call("HSET", key, "stop", ARGV[3])
end
if ARGV[4] == "1" then
  take_over(placed(ARGV[2]), 0)
  redis.call("HDEL", prefix .. "placements", ARGV[2])
end
