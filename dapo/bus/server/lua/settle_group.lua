-- ARGV: nonce, epoch, group id, state, reason, message id on `scored` ("" for none), length of the history of kept (1)
-- and filtered (0) groups, id of the row of the data of which something is to be remembered ("" for none), and what
-- ("" to forget it). Filtered groups since the last kept one are counted by their reason. Returns the same when repeated.
local refused = fence("orchestrator", ARGV[2])
if refused then return refused end
local before = reply_to(ARGV[1])
if before then return before end
local id, target, message = ARGV[3], ARGV[4], ARGV[6]
local state = redis.call("HGET", group_key(id), "state")
local outcome = "written"
if state == target then
  outcome = "duplicate"
elseif not state or not IS_OPEN[state] then
  outcome = "closed"
elseif not ALLOWED[state .. ">" .. target] then
  return redis.error_reply("LEDGER group " .. id .. " is " .. state .. " and cannot become " .. target)
else
  move(id, state, target, ARGV[5])
  if target == "kept" or target == "filtered" then
    redis.call("RPUSH", prefix .. "history", target == "kept" and 1 or 0)
    redis.call("LTRIM", prefix .. "history", -tonumber(ARGV[7]), -1)
  end
  if target == "kept" then
    redis.call("DEL", prefix .. "uniform")
  elseif target == "filtered" then
    redis.call("HINCRBY", prefix .. "uniform", ARGV[5], 1)
  end
  if ARGV[8] ~= "" then
    if ARGV[9] == "" then
      redis.call("HDEL", prefix .. "resting", ARGV[8])
    else
      redis.call("HSET", prefix .. "resting", ARGV[8], ARGV[9])
    end
  end
  if target == "filtered" or target == "surplus" then
    redis.call("SADD", prefix .. (ARGV[5] == RUN_COMPLETE and "drained" or "passed"), id)
  end
end
if message ~= "" then
  acknowledge("scored", message)
end
remember(ARGV[1], outcome)
return outcome
