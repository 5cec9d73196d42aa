-- ARGV: keys of the run.
return redis.call("UNLINK", unpack(ARGV))
