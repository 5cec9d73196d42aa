-- ARGV: epoch, batch number, ids of the groups in the batches up to it. The batches leave the log, and their groups
-- are marked for the sweep of their payloads, in one step.
local refused = fence("learner", ARGV[1])
if refused then return refused end
local batch = tonumber(ARGV[2])
local trained = tonumber(redis.call("HGET", prefix .. "log", "trained") or "-1")
if batch > trained then
  return redis.error_reply("CHECKPOINT of batch " .. ARGV[2] .. " covers more than the recorded steps, which end with "
    .. string.format("%.0f", trained))
end
for at = 3, #ARGV do
  redis.call("SADD", prefix .. "garbage", ARGV[at])
end
redis.call("XTRIM", prefix .. "batches", "MINID", string.format("%.0f-0", batch + 2))
return "written"
