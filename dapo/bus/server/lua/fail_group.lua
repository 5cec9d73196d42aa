-- ARGV: group id ("" when unknown), reason, detail, stream ("" for none), message id, data of the entry, cap.
-- A dead-letter entry, the ledger's move to failed, the acknowledgement and the notice on `scored` are one step.
-- Only a group that is not yet scored can fail; any other is left as it is ("closed").
local id, reason, detail, stream, message, data = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
redis.call("XADD", prefix .. "dead", "MAXLEN", "~", ARGV[7], "*", "group", id, "reason", reason, "detail", detail,
  "stream", stream, "message_id", message, "data", data)
if stream ~= "" then
  acknowledge(stream, message)
end
local state = id ~= "" and redis.call("HGET", group_key(id), "state")
if not state or not ALLOWED[state .. ">failed"] then
  return "closed"
end
move(id, state, "failed", reason)
redis.call("XADD", prefix .. "scored", "*", "data", id)
return "written"
