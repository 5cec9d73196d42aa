-- ARGV: nonce, group id ("" when unknown), reason, detail, stream ("" for none), message id, data of the entry, cap.
-- A dead-letter entry, the ledger's move to failed, the acknowledgement and the notice on `scored` are one step.
-- Only a group that is not yet scored can fail; any other is left as it is ("closed"). Returns the same when repeated.
local before = reply_to(ARGV[1])
if before then return before end
local id, reason, detail, stream, message, data = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local letter = redis.call("XADD", prefix .. "dead", "MAXLEN", "~", ARGV[8], "*", "group", id, "reason", reason, "detail", detail,
  "stream", stream, "message_id", message, "data", data)
if stream ~= "" then
  acknowledge(stream, message)
end
local state = id ~= "" and redis.call("HGET", group_key(id), "state")
if state then
  redis.call("HSETNX", group_key(id), "letter", letter)
end
if not state or not ALLOWED[state .. ">failed"] then
  remember(ARGV[1], "closed")
  return "closed"
end
move(id, state, "failed", reason)
redis.call("XADD", prefix .. "scored", "*", "data", id)
remember(ARGV[1], "written")
return "written"
