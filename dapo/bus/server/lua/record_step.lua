-- ARGV: epoch, batch number, report, cap, group ids. A batch recorded before changes nothing. Steps come in order.
local refused = fence("learner", ARGV[1])
if refused then return refused end
local batch = tonumber(ARGV[2])
local known = redis.call("HMGET", prefix .. "log", "next", "trained")
local cut, trained = tonumber(known[1] or "0"), tonumber(known[2] or "-1")
if batch <= trained then return "duplicate" end
if batch ~= trained + 1 or batch >= cut then
  return redis.error_reply("STEP " .. ARGV[2] .. " cannot be recorded: batches recorded up to "
    .. string.format("%.0f", trained) .. ", cut up to " .. string.format("%.0f", cut - 1))
end
for at = 5, #ARGV do
  local state = redis.call("HGET", group_key(ARGV[at]), "state") or "unknown"
  if state ~= "batched" then
    return redis.error_reply("LEDGER group " .. ARGV[at] .. " is " .. state .. ": only a batched group can be trained")
  end
end
for at = 5, #ARGV do
  move(ARGV[at], "batched", "trained", "batch " .. ARGV[2])
end
redis.call("XADD", prefix .. "steps", "MAXLEN", "~", ARGV[4], string.format("%.0f-0", batch + 1), "data", ARGV[3])
redis.call("HSET", prefix .. "log", "trained", ARGV[2])
return "written"
