-- ARGV: nonce, who asks, time to live in ms, what is wanted of the run from now on ("": as before) unless by now something
-- else is wanted than the one after it ("": nothing), and "stay" where the workers of before keep their term, if they have
-- one. Returns the new epoch of the orchestrator, which is otherwise also that of its workers, the same one when the
-- request is repeated; or who has the lease, where another one has it, with nothing done.
local before = reply_to(ARGV[1])
if before then return tonumber(before) end
local holder = redis.call("GET", prefix .. "lease")
if holder and holder ~= ARGV[2] then return holder end
local epoch = take_over("orchestrator", 0)
if ARGV[6] ~= "stay" or redis.call("EXISTS", prefix .. "epoch:workers") == 0 then
  redis.call("SET", prefix .. "epoch:workers", string.format("%.0f", epoch))
end
redis.call("SET", prefix .. "lease", ARGV[2], "PX", ARGV[3])
if ARGV[4] ~= "" and (redis.call("HGET", prefix .. "run", "desired") or "") == ARGV[5] then
  redis.call("HSET", prefix .. "run", "desired", ARGV[4])
end
remember(ARGV[1], string.format("%.0f", epoch))
return epoch
