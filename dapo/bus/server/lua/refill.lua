-- ARGV: nonce, group id, index, completion as it was accepted, its message id on `completions`, most refills of an index,
-- generator and attempt that it came from.
-- Withdraws a completion whose response was lost, so that this index alone is generated again; a group that was
-- generated is issued again for it, with its prompt back on its stream. While it is issued, whoever holds the prompt looks
-- for what is missing before it lets go. "closed": there is nothing to withdraw; "exhausted", with nothing done, where
-- the index was refilled so often before. Returns the same when repeated.
local before = reply_to(ARGV[1])
if before then return before end
local id, index, data = ARGV[2], ARGV[3], ARGV[4]
local group = group_key(id)
local known = redis.call("HMGET", group, "state", "completion:" .. index, "grade:" .. index, "refills:" .. index)
local state, completion, grade, refills = known[1], known[2], known[3], tonumber(known[4] or "0")
local outcome = "closed"
if (state == "issued" or state == "generated") and completion == data and not grade then
  if refills >= tonumber(ARGV[6]) then return "exhausted" end
  redis.call("HDEL", group, "completion:" .. index)
  redis.call("HINCRBY", group, "generated", -1)
  redis.call("HINCRBY", group, "refills:" .. index, 1)
  note(id, "refilled " .. index .. " " .. ARGV[7] .. " " .. ARGV[8])
  if state == "generated" then
    move(id, "generated", "issued", "")
    put_prompt(id)
  end
  outcome = "refilled"
end
acknowledge("completions", ARGV[5])
remember(ARGV[1], outcome)
return outcome
