-- ARGV: nonce, epoch, group id, state, reason, message id on `scored` ("" for none). Returns the same when repeated.
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
end
if message ~= "" then
  acknowledge("scored", message)
end
remember(ARGV[1], outcome)
return outcome
