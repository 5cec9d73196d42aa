-- ARGV: epoch, stream, then per group: id, size, issued version, task, position in the data ("epoch cursor"; "" of an
-- evaluation's), the failed group whose prompt it issues once more ("" for none). An id that was issued before is left as
-- it is. The greatest id is noted with the issue, and the position behind which a successor goes on; a prompt that is
-- issued once more does not move that, and is counted. What was waiting to be issued again waits no more, and was counted
-- before. Returns the number of groups issued.
local refused = fence("orchestrator", ARGV[1])
if refused then return refused end
local issued = 0
for at = 3, #ARGV, 6 do
  local id, position, failed = ARGV[at], ARGV[at + 4], ARGV[at + 5]
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
        if failed ~= "" and greatest then
          position = string.sub(greatest, #id + 2)
        end
        redis.call("HSET", prefix .. "log", "issued", id .. " " .. position)
      end
      local counted = redis.call("HDEL", prefix .. "again", id) == 1
      if failed ~= "" then
        if not counted then redis.call("HINCRBY", prefix .. "log", "repeats", 1) end
        redis.call("HDEL", prefix .. "requeued", failed)
        if redis.call("EXISTS", group_key(failed)) == 1 then
          redis.call("HSET", group_key(failed), "requeued_as", id)
        end
      end
    end
    issued = issued + 1
  end
end
redis.call("HINCRBY", prefix .. "ledger", "issued", issued)
redis.call("HINCRBY", prefix .. "ledger", "total", issued)
return issued
