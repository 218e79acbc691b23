-- Announces a write. From here until its `finish`, readers ask the database, and nobody fills.
-- lives_us: until the writer counts as dead; keys_ms: that keys live; wanted: numbers; own_us: the replica's clock;
-- skew_us: how far Redis's may be from it; process: of Redis, as the replica knows it
-- Gives {first seq, 1 if there is an entry to keep up}; the first is '' where none are wanted, or where the store must be
-- asked first: nothing says what was reserved, or that the store has none above it, or it makes no sense.

local function session(token, lives_us, keys_ms, wanted, own_us, skew_us, process)
  bury()
  redis.call('DEL', FILL)
  redis.call('ZADD', PENDING, int(now + lives_us), token)
  redis.call('PEXPIRE', PENDING, keys_ms)

  local first = ''
  if wanted ~= '0' then
    local last, is_above_store = last_reserved(process)
    if last and is_above_store and last <= own_us + skew_us then
      first = reserve(math.max(clock_to_number_by(own_us, skew_us), last + 1), wanted, keys_ms, process)
    end
  end
  return { first, redis.call('EXISTS', STATE) }
end
