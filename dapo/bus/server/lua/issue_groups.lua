-- ARGV: epoch, stream, then per group: id, size, issued version, task, position in the data ("epoch cursor"; "" of an
-- evaluation's). An id that was issued before is left as it is. The greatest id and its position are noted with the
-- issue, so that a successor goes on behind them; one that was waiting to be issued again waits no more. Returns the
-- number of groups issued.
local refused = fence("orchestrator", ARGV[1])
if refused then return refused end
local issued = 0
for at = 3, #ARGV, 5 do
  local id, position = ARGV[at], ARGV[at + 4]
  local group = group_key(id)
  if redis.call("HSETNX", group, "state", "issued") == 1 then
    local entry = redis.call("XADD", prefix .. ARGV[2], "*", "data", id)
    redis.call("HSET", group, "reason", "", "size", ARGV[at + 1], "issued_version", ARGV[at + 2],
      "task", ARGV[at + 3], "stream", ARGV[2], "entry", entry, "attempts", 1, "trail", mark_of("issued"))
    redis.call("ZADD", prefix .. "open", position == "" and 1 or 0, id)
    if position == "" then
      redis.call("HSET", prefix .. "log", "evaluated", id)
    else
      local greatest = redis.call("HGET", prefix .. "log", "issued")
      if not greatest or id > string.sub(greatest, 1, #id) then
        redis.call("HSET", prefix .. "log", "issued", id .. " " .. position)
      end
      redis.call("HDEL", prefix .. "again", id)
    end
    issued = issued + 1
  end
end
redis.call("HINCRBY", prefix .. "ledger", "issued", issued)
redis.call("HINCRBY", prefix .. "ledger", "total", issued)
return issued
