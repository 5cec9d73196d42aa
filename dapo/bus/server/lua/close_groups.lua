-- ARGV: epoch, reason, group ids. Those that are still open become surplus. Returns the number closed.
local refused = fence("orchestrator", ARGV[1])
if refused then return refused end
local closed = 0
for at = 3, #ARGV do
  local state = redis.call("HGET", group_key(ARGV[at]), "state")
  if IS_OPEN[state] then
    move(ARGV[at], state, "surplus", ARGV[2])
    closed = closed + 1
  end
end
return closed
