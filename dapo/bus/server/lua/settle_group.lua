-- ARGV: epoch, group id, state, reason, message id on `scored` ("" for none).
local refused = fence("orchestrator", ARGV[1])
if refused then return refused end
local id, target, message = ARGV[2], ARGV[3], ARGV[5]
local state = redis.call("HGET", group_key(id), "state")
local outcome = "written"
if state == target then
  outcome = "duplicate"
elseif not state or not IS_OPEN[state] then
  outcome = "closed"
elseif not ALLOWED[state .. ">" .. target] then
  return redis.error_reply("LEDGER group " .. id .. " is " .. state .. " and cannot become " .. target)
else
  move(id, state, target, ARGV[4])
end
if message ~= "" then
  acknowledge("scored", message)
end
return outcome
