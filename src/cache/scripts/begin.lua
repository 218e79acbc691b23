-- Announces a write. From here until its `finish`, readers ask the database, and nobody fills.
-- lives_us: until the writer counts as dead; wanted: numbers; keys_ms: that keys live
-- Gives {first seq, 1 if there is an entry to keep up}.

local function session(token, lives_us, wanted, keys_ms)
  bury()
  redis.call('DEL', FILL)
  redis.call('ZADD', PENDING, int(now + lives_us), token)
  redis.call('PEXPIRE', PENDING, keys_ms)

  local first = now
  local last = redis.call('GET', SEQ)
  if last and tonumber(last) >= first then
    first = tonumber(last) + 1
  end
  redis.call('SET', SEQ, int(first + wanted - 1), 'PX', keys_ms)
  return { int(first), redis.call('EXISTS', STATE) }
end
