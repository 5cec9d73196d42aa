-- ARGV: epoch, reason, most groups to close in this step. Those for training, oldest first. Returns the number closed.
local refused = fence("orchestrator", ARGV[1])
if refused then return refused end
local ids = redis.call("ZRANGE", prefix .. "open", 0, 0, "BYSCORE", "LIMIT", 0, tonumber(ARGV[3]))
for _, id in ipairs(ids) do
  move(id, redis.call("HGET", group_key(id), "state"), "surplus", ARGV[2])
end
return #ids
