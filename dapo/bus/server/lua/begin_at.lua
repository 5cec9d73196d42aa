-- ARGV: epoch, step, newest prompt ("id epoch cursor" or ""), newest id of an evaluation's group ("" for none),
-- standing of the evaluations ("" for none), history ("1" kept, "0" filtered, oldest first), groups that issued a failed
-- one's prompt once more, number of counts, pairs of state and count, pairs of group id and position. An empty run is put
-- where a checkpoint says that it stood.
local refused = fence("orchestrator", ARGV[1])
if refused then return refused end
local log = prefix .. "log"
redis.call("DEL", log, prefix .. "history", prefix .. "evaluating", prefix .. "ledger", prefix .. "again")
redis.call("HSET", log, "base", ARGV[2], "next", ARGV[2], "trained", string.format("%.0f", tonumber(ARGV[2]) - 1),
  "repeats", ARGV[7])
if ARGV[3] ~= "" then redis.call("HSET", log, "issued", ARGV[3]) end
if ARGV[4] ~= "" then redis.call("HSET", log, "evaluated", ARGV[4]) end
if ARGV[5] ~= "" then redis.call("SET", prefix .. "evaluating", ARGV[5]) end
for flag in string.gmatch(ARGV[6], ".") do
  redis.call("RPUSH", prefix .. "history", flag)
end
local last = 8 + 2 * tonumber(ARGV[8])
for at = 9, last, 2 do
  redis.call("HSET", prefix .. "ledger", ARGV[at], ARGV[at + 1])
  redis.call("HINCRBY", prefix .. "ledger", "total", ARGV[at + 1])
end
for at = last + 1, #ARGV, 2 do
  redis.call("HSET", prefix .. "again", ARGV[at], ARGV[at + 1])
end
return "written"
