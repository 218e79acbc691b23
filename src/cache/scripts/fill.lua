-- Makes an entry of what a reader found in the database, unless a write began since it was let: such a write took the
-- fill token with it, and whoever came late has something old.
-- lives_ms: of the entry; json, version, initiated: of the session; then for each event: score, member
-- Gives 1 if the entry was made.

local function session(token, generation, lives_ms, json, version, initiated, complete, ...)
  bury()
  if redis.call('GET', FILL) ~= token or redis.call('ZCARD', PENDING) > 0 then
    return 0
  end
  drop()
  local events, bytes = { ... }, 0
  for at = 2, #events, 2 do
    bytes = bytes + #events[at]
  end
  if #events > 0 then
    redis.call('ZADD', EVENTS, unpack(events))
    redis.call('PEXPIRE', EVENTS, lives_ms)
  end
  redis.call('HSET', STATE, 'g', generation, 'x', int(now + lives_ms * 1000), 's', json, 'v', version, 'i', initiated,
    'c', complete, 'n', #events / 2, 'b', bytes, 't', token, 'r', 0)
  redis.call('PEXPIRE', STATE, lives_ms)
  return 1
end
