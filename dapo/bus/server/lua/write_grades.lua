-- ARGV: per grade: message id, group id, index, grade. The first grade of (group, index) wins, and only a completion
-- that was accepted can be graded. Whatever the outcome, the completions entry is acknowledged in the same step;
-- only "invalid" leaves it pending. The last grade puts the group on `scored`, once.
local outcomes = {}
for at = 1, #ARGV, 4 do
  local message, id, index, data = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local group = group_key(id)
  local field = "grade:" .. index
  local known = redis.call("HMGET", group, "state", "size", field, "completion:" .. index)
  local state, size, graded, completion = known[1], tonumber(known[2]), known[3], known[4]
  local outcome = "written"
  if not state or IS_DISCARDED[state] then
    outcome = "closed"
  elseif graded then
    outcome = "duplicate"
  elseif not completion then
    outcome = "invalid"
  else
    redis.call("HSET", group, field, data)
    if redis.call("HINCRBY", group, "graded", 1) == size then
      move(id, "generated", "scored", "")
      redis.call("XADD", prefix .. "scored", "*", "data", id)
    end
  end
  if outcome ~= "invalid" then
    acknowledge("completions", message)
  end
  outcomes[#outcomes + 1] = outcome
end
return outcomes
