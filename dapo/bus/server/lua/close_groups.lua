-- ARGV: epoch, reason, group ids. Those that are still open become surplus; which of them only the end of the run made
-- so is kept, for a run that goes on beyond it. Returns the number closed.
local refused = fence("orchestrator", ARGV[1])
if refused then return refused end
local closed = 0
for at = 3, #ARGV do
  local state = redis.call("HGET", group_key(ARGV[at]), "state")
  if IS_OPEN[state] then
    move(ARGV[at], state, "surplus", ARGV[2])
    if ARGV[2] == RUN_COMPLETE then
      redis.call("SADD", prefix .. "drained", ARGV[at])
    end
    closed = closed + 1
  end
end
return closed
