-- ARGV: epoch, stream, then per group: id, size, issued version, task, 1 for an evaluation's (0 for training). An id that was issued before is left as it is.
-- Returns the number of groups issued.
local refused = fence("orchestrator", ARGV[1])
if refused then return refused end
local issued = 0
for at = 3, #ARGV, 5 do
  local id = ARGV[at]
  local group = group_key(id)
  if redis.call("HSETNX", group, "state", "issued") == 1 then
    local entry = redis.call("XADD", prefix .. ARGV[2], "*", "data", id)
    redis.call("HSET", group, "reason", "", "size", ARGV[at + 1], "issued_version", ARGV[at + 2],
      "task", ARGV[at + 3], "stream", ARGV[2], "entry", entry, "attempts", 1)
    redis.call("ZADD", prefix .. "open", ARGV[at + 4], id)
    issued = issued + 1
  end
end
redis.call("HINCRBY", prefix .. "ledger", "issued", issued)
redis.call("HINCRBY", prefix .. "ledger", "total", issued)
return issued
