-- Gives a worker of the run to an agent that has none, under the next epoch of that worker, which is the order's number.
-- ARGV: nonce, epoch of the run's workers, agent, worker, its role, the order (JSON).
-- Returns the number, the same one when the request is repeated; or why not, with nothing done.
local before = reply_to(ARGV[1])
if before then return before end
local refused = fence("workers", ARGV[2])
if refused then return refused end
local agent, worker = ARGV[3], ARGV[4]
local key = agent_key(agent)
local placement = placement_of(worker)
if placement then return "is with agent " .. placement.agent end
if redis.call("EXISTS", key) == 0 then return "agent " .. agent .. " is gone" end
if redis.call("HEXISTS", key, "order") == 1 then return "agent " .. agent .. " has a worker" end
local known = cjson.decode(redis.call("HGET", key, "agent"))
if known.leaving then return "agent " .. agent .. " leaves" end
if known.role ~= ARGV[5] then return "agent " .. agent .. " is for the role " .. known.role end
local number = string.format("%.0f", take_over(placed(worker), 0))
local order = cjson.encode({number = number, told = ARGV[6]})
redis.call("HSET", prefix .. "placements", worker, cjson.encode({agent = agent, number = number, role = ARGV[5]}))
redis.call("HDEL", key, "report", "log", "stop")
redis.call("HSET", key, "order", order, "number", number, "run", prefix)
remember(ARGV[1], number)
return number
