-- ARGV: per grade: message id, group id, index, completion, grade. The first grade of (group, index) wins, and only the
-- completion that was accepted can be graded: of one that was withdrawn since (see refill) the grade is dropped. Whatever
-- the outcome, the completions entry is acknowledged in the same step; only "invalid" leaves it pending. The last grade
-- puts the group on `scored`, once.
local outcomes = {}
for at = 1, #ARGV, 5 do
  local message, id, index, meant, data = unpack(ARGV, at, at + 4)
  local group = group_key(id)
  local field = "grade:" .. index
  local known = redis.call("HMGET", group, "state", "size", field, "completion:" .. index, "refills:" .. index)
  local state, size, graded, completion, refills = known[1], tonumber(known[2]), known[3], known[4], known[5]
  local outcome = "written"
  if not state or IS_DISCARDED[state] then
    outcome = "closed"
  elseif graded then
    outcome = "duplicate"
  elseif completion ~= meant then
    outcome = refills and "closed" or "invalid"
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
