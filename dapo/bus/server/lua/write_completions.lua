-- ARGV: per completion: group id, index, completion. The first completion of (group, index) wins.
-- Returns per completion: "written", "closed", "invalid" or, for a duplicate, {the completion that won}.
local outcomes = {}
for at = 1, #ARGV, 3 do
  local id, index, data = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local group = group_key(id)
  local field = "completion:" .. index
  local known = redis.call("HMGET", group, "state", "size", field)
  local state, size, winner = known[1], tonumber(known[2]), known[3]
  local outcome
  if not state or IS_DISCARDED[state] then
    outcome = "closed"
  elseif tonumber(index) >= size then
    outcome = "invalid"
  elseif winner then
    outcome = {winner}
  elseif state ~= "issued" then
    outcome = "closed"
  else
    redis.call("HSET", group, field, data, "losses", 0)
    redis.call("XADD", prefix .. "completions", "*", "data", data, "group", id)
    if redis.call("HINCRBY", group, "generated", 1) == size then
      move(id, "issued", "generated", "")
    end
    outcome = "written"
  end
  outcomes[#outcomes + 1] = outcome
end
return outcomes
