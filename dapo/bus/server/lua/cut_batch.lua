-- ARGV: epoch, batch number, batch, what was measured of it, number of its groups, their ids, ids of the groups passed
-- over for it. All of its groups go kept -> batched with the entry, or nothing happens.
-- The same batch again, byte for byte, is a repeated request and changes nothing. The entry's id is (number + 1)-0.
local KEPT_CUTS = 100
local refused = fence("orchestrator", ARGV[1])
if refused then return refused end
local batch, data = tonumber(ARGV[2]), ARGV[3]
local entry = string.format("%.0f-0", batch + 1)
local expected = tonumber(redis.call("HGET", prefix .. "log", "next") or "0")
if batch ~= expected then
  local same = redis.call("XRANGE", prefix .. "batches", entry, entry)[1]
  if same and same[2][2] == data then return "duplicate" end
  return redis.error_reply("BATCH " .. ARGV[2] .. " is not the next, which is " .. string.format("%.0f", expected))
end
local seen, last = {}, 5 + tonumber(ARGV[5])
for at = 6, last do
  local state = redis.call("HGET", group_key(ARGV[at]), "state") or "unknown"
  if state ~= "kept" or seen[ARGV[at]] then
    if state == "kept" then state = "listed twice" end
    return redis.error_reply("LEDGER group " .. ARGV[at] .. " is " .. state .. ": only a kept group can be batched")
  end
  seen[ARGV[at]] = true
end
for at = 6, last do
  move(ARGV[at], "kept", "batched", "batch " .. ARGV[2])
  redis.call("HSET", group_key(ARGV[at]), "batch", ARGV[2])
end
for at = last + 1, #ARGV do
  redis.call("SREM", prefix .. "passed", ARGV[at])
end
if ARGV[4] ~= "" then
  redis.call("HSET", prefix .. "cuts", ARGV[2], ARGV[4])
end
redis.call("HDEL", prefix .. "cuts", string.format("%.0f", batch - KEPT_CUTS))
redis.call("XADD", prefix .. "batches", entry, "data", data)
redis.call("HSET", prefix .. "log", "next", string.format("%.0f", batch + 1))
return "written"
